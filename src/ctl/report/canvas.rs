//! Drawing in the report's own units (CSS pixels, y downwards) on the SVG backend of `plotters`.
//!
//! The backend knows whole pixels only, so everything is drawn [`FINE`] times as large and the picture's
//! `viewBox` scales it back.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, PathElement, Polygon, RGBColor, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, ShapeStyle, TextStyle};
use std::fmt::Display;

/// Parts of a pixel that can be told apart.
const FINE: u32 = 8;
/// The embedded font first; what a browser has, after it.
pub(in crate::ctl) const FONTS: &str = "Inter, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif";

/// The picture cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the picture cannot be drawn: {0}")]
pub struct DrawError(pub(in crate::ctl) String);

/// Where a text's x lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ctl) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(in crate::ctl) struct Text {
    pub(in crate::ctl) size: f64,
    pub(in crate::ctl) color: RGBColor,
    pub(in crate::ctl) anchor: Anchor,
    pub(in crate::ctl) bold: bool,
}

impl Text {
    pub(in crate::ctl) const fn new(size: f64, color: RGBColor) -> Self {
        Self { size, color, anchor: Anchor::Start, bold: false }
    }

    pub(in crate::ctl) const fn anchored(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    pub(in crate::ctl) const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }
}

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::ctl) struct Frame {
    pub(in crate::ctl) left: f64,
    pub(in crate::ctl) top: f64,
    pub(in crate::ctl) right: f64,
    pub(in crate::ctl) bottom: f64,
}

/// A picture in the making.
pub(in crate::ctl) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

type Outcome = Result<(), DrawError>;

fn fail(error: impl Display) -> DrawError {
    DrawError(error.to_string())
}

fn pixel((x, y): (f64, f64)) -> (i32, i32) {
    let fine = |value: f64| crate::units::MilliCelsius::from_f64(value * f64::from(FINE)).0;
    (fine(x), fine(y))
}

fn stroke(color: RGBColor, opacity: f64, width: f64) -> ShapeStyle {
    let wide = crate::units::Kilohertz::from_f64(width * f64::from(FINE)).0;
    color.mix(opacity).stroke_width(wide)
}

impl Canvas<'_> {
    /// Draws a picture of `width` x `height` and returns it as SVG.
    pub(in crate::ctl) fn draw(
        width: u32,
        height: u32,
        paint: impl FnOnce(&Canvas<'_>) -> Outcome,
    ) -> Result<String, DrawError> {
        let mut svg = String::new();
        let (wide, high) = (width * FINE, height * FINE);
        {
            let area = SVGBackend::with_string(&mut svg, (wide, high)).into_drawing_area();
            let canvas = Canvas { area };
            paint(&canvas)?;
            canvas.area.present().map_err(fail)?;
        }
        Ok(svg.replacen(
            &format!("width=\"{wide}\" height=\"{high}\""),
            &format!("width=\"{width}\" height=\"{height}\""),
            1,
        ))
    }

    /// A line through points.
    pub(in crate::ctl) fn line(
        &self,
        points: &[(f64, f64)],
        color: RGBColor,
        opacity: f64,
        width: f64,
    ) -> Outcome {
        if points.len() < 2 {
            return Ok(());
        }
        let points: Vec<_> = points.iter().copied().map(pixel).collect();
        self.area.draw(&PathElement::new(points, stroke(color, opacity, width))).map_err(fail)
    }

    /// A dashed straight line, horizontal or vertical.
    pub(in crate::ctl) fn dashed(
        &self,
        from: (f64, f64),
        to: (f64, f64),
        color: RGBColor,
        dash: f64,
    ) -> Outcome {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let mut at = 0.0;
        while at < length {
            let end = (at + dash).min(length);
            let point = |t: f64| (from.0 + dx * t / length, from.1 + dy * t / length);
            self.line(&[point(at), point(end)], color, 1.0, 1.0)?;
            at += 2.0 * dash;
        }
        Ok(())
    }

    /// A filled rectangle.
    pub(in crate::ctl) fn fill(&self, frame: Frame, color: RGBColor, opacity: f64) -> Outcome {
        let corners = [pixel((frame.left, frame.top)), pixel((frame.right, frame.bottom))];
        self.area.draw(&Rectangle::new(corners, color.mix(opacity).filled())).map_err(fail)
    }

    /// A filled shape.
    pub(in crate::ctl) fn shape(&self, points: &[(f64, f64)], color: RGBColor, opacity: f64) -> Outcome {
        let points: Vec<_> = points.iter().copied().map(pixel).collect();
        self.area.draw(&Polygon::new(points, color.mix(opacity))).map_err(fail)
    }

    /// A text whose middle height is at `at.1`.
    pub(in crate::ctl) fn text(&self, at: (f64, f64), words: &str, look: Text) -> Outcome {
        let h_pos = match look.anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        // The backend divides sizes by 1.24.
        let size = look.size * 1.24 * f64::from(FINE);
        let weight = if look.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = (FONTS, size).into_font().style(weight);
        let style = TextStyle::from(font).color(&look.color).pos(Pos::new(h_pos, VPos::Center));
        self.area.draw_text(words, &style, pixel(at)).map_err(fail)
    }
}
