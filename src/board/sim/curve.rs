//! Interpolation of measured tables.

/// A quantity tabulated over the clock, in ascending clocks. Linear between the points, constant
/// beyond the ends: a plant does not extrapolate what nobody measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Longest table accepted.
    pub const MAX_POINTS: usize = 128;

    /// A curve through `points` of (kHz, value).
    ///
    /// # Errors
    /// Says what is wrong if there is no point, too many, a number that is not finite, or clocks that
    /// do not ascend.
    pub fn new(points: &[[f64; 2]]) -> Result<Self, String> {
        if points.is_empty() || points.len() > Self::MAX_POINTS {
            return Err(format!("{} points; wanted 1 to {}", points.len(), Self::MAX_POINTS));
        }
        if let Some([khz, value]) = points.iter().find(|[khz, value]| !(khz.is_finite() && value.is_finite()))
        {
            return Err(format!("point [{khz}, {value}] is not finite"));
        }
        if let Some(pair) = points.windows(2).find(|pair| pair[0][0] >= pair[1][0]) {
            return Err(format!("clock {} after {}; wanted ascending clocks", pair[1][0], pair[0][0]));
        }
        Ok(Self { points: points.iter().map(|[khz, value]| (*khz, *value)).collect() })
    }

    /// The value at a clock in kHz.
    #[must_use]
    pub fn at(&self, khz: f64) -> f64 {
        let above = self.points.partition_point(|(clock, _)| *clock < khz);
        if above == 0 {
            return self.points[0].1;
        }
        if above == self.points.len() {
            return self.points[above - 1].1;
        }
        let (x0, y0) = self.points[above - 1];
        let (x1, y1) = self.points[above];
        y0 + (y1 - y0) * (khz - x0) / (x1 - x0)
    }
}

/// Measured latency of one network over processor clock x memory clock.
///
/// Between the points the logarithm of the latency is interpolated over the logarithm of the processor
/// clock, in which `a/f` is a straight line, and linearly over the memory clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    clocks: Vec<f64>,
    memory_clocks: Vec<f64>,
    /// `ln(seconds)`, one row per processor clock.
    ln_seconds: Vec<Vec<f64>>,
}

impl Grid {
    /// A grid from latencies in milliseconds, one row per processor clock in kHz, one column per memory
    /// clock in kHz.
    ///
    /// # Errors
    /// Says what is wrong if the axes do not ascend, the table is not rectangular, or a latency is not
    /// positive.
    pub fn new(clocks: &[f64], memory_clocks: &[f64], latency_ms: &[Vec<f64>]) -> Result<Self, String> {
        for (name, axis) in [("clocks_khz", clocks), ("memory_khz", memory_clocks)] {
            let ascends = axis.windows(2).all(|pair| pair[0] < pair[1]);
            if axis.is_empty() || axis.len() > Curve::MAX_POINTS || !ascends || !axis.iter().all(|f| *f > 0.0)
            {
                return Err(format!("{name}: wanted 1 to {} ascending clocks", Curve::MAX_POINTS));
            }
        }
        if latency_ms.len() != clocks.len() {
            return Err(format!("latency_ms: {} rows for {} clocks", latency_ms.len(), clocks.len()));
        }
        for (row, clock) in latency_ms.iter().zip(clocks) {
            if row.len() != memory_clocks.len() {
                return Err(format!(
                    "latency_ms at {clock} kHz: {} columns for {} memory clocks",
                    row.len(),
                    memory_clocks.len()
                ));
            }
            if let Some(bad) = row.iter().find(|ms| !(**ms > 0.0 && ms.is_finite())) {
                return Err(format!("latency_ms at {clock} kHz: {bad}; wanted a positive number"));
            }
        }
        let ln_seconds =
            latency_ms.iter().map(|row| row.iter().map(|ms| (ms / 1e3).ln()).collect()).collect();
        Ok(Self { clocks: clocks.to_vec(), memory_clocks: memory_clocks.to_vec(), ln_seconds })
    }

    /// Latency in seconds at a processor clock and a memory clock in kHz.
    #[must_use]
    pub fn seconds(&self, khz: f64, memory_khz: f64) -> f64 {
        let (row, x) = locate(&self.clocks, khz, f64::ln);
        let (column, y) = locate(&self.memory_clocks, memory_khz, |f| f);
        let along = |r: usize| {
            let next = (column + 1).min(self.memory_clocks.len() - 1);
            let cells = &self.ln_seconds[r];
            cells[column] + (cells[next] - cells[column]) * y
        };
        let next = (row + 1).min(self.clocks.len() - 1);
        (along(row) + (along(next) - along(row)) * x).exp()
    }

    /// The memory clocks in kHz, ascending.
    #[must_use]
    pub fn memory_clocks(&self) -> &[f64] {
        &self.memory_clocks
    }
}

/// The cell of an axis that holds `value`, and how far into it, in the coordinate `map`.
pub(super) fn locate(axis: &[f64], value: f64, map: impl Fn(f64) -> f64) -> (usize, f64) {
    let above = axis.partition_point(|point| *point <= value);
    if above == 0 {
        return (0, 0.0);
    }
    if above == axis.len() {
        return (axis.len() - 1, 0.0);
    }
    let (low, high) = (map(axis[above - 1]), map(axis[above]));
    (above - 1, (map(value) - low) / (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_linear_inside_and_flat_outside() {
        let curve = Curve::new(&[[100.0, 1.0], [200.0, 3.0]]).unwrap();
        assert_eq!([50.0, 100.0, 150.0, 200.0, 300.0].map(|f| curve.at(f)), [1.0, 1.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn a_curve_whose_clocks_descend_is_refused() {
        assert!(Curve::new(&[[200.0, 1.0], [100.0, 3.0]]).unwrap_err().contains("ascending"));
        assert!(Curve::new(&[[f64::NAN, 1.0]]).unwrap_err().contains("not finite"));
        assert!(Curve::new(&[]).is_err());
    }

    #[test]
    fn a_grid_gives_back_its_points_and_follows_one_over_f_between_them() {
        let grid = Grid::new(&[1e6, 2e6], &[1e6, 2e6], &[vec![40.0, 20.0], vec![20.0, 10.0]]).unwrap();
        assert!((grid.seconds(1e6, 1e6) - 0.040).abs() < 1e-12);
        assert!((grid.seconds(2e6, 2e6) - 0.010).abs() < 1e-12);
        // a/f with a = 40 ms GHz: 40/1.6 = 25 ms.
        assert!((grid.seconds(1.6e6, 1e6) - 0.025).abs() < 1e-12);
        assert!((grid.seconds(9e6, 9e6) - 0.010).abs() < 1e-12);
    }

    #[test]
    fn a_ragged_grid_is_refused() {
        assert!(
            Grid::new(&[1.0, 2.0], &[1.0], &[vec![1.0], vec![1.0, 2.0]]).unwrap_err().contains("columns")
        );
        assert!(Grid::new(&[1.0], &[1.0], &[vec![0.0]]).unwrap_err().contains("positive"));
    }
}
