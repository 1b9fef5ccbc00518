//! From SVG to PNG, with the fonts that the program carries: the same on every machine.

use crate::ctl::report::canvas::DrawError;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

/// Inter, cut down to the characters in use; SIL Open Font License, see `font/OFL.txt`.
const FONT_FILES: [&[u8]; 2] =
    [include_bytes!("font/Inter-Regular.otf"), include_bytes!("font/Inter-SemiBold.otf")];
/// Largest picture, in pixels a side.
const SIDE_LIMIT: f32 = 16_384.0;

/// Renders an SVG at `scale` times its size.
///
/// # Errors
/// If it is not SVG, or would be larger than 16384 pixels a side.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
pub fn render(svg: &str, scale: f32) -> Result<Vec<u8>, DrawError> {
    let mut options = Options { font_family: "Inter".to_owned(), ..Options::default() };
    for file in FONT_FILES {
        options.fontdb_mut().load_font_data(file.to_vec());
    }
    let tree = Tree::from_str(svg, &options).map_err(|error| DrawError(error.to_string()))?;
    let (width, height) = ((tree.size().width() * scale).ceil(), (tree.size().height() * scale).ceil());
    if !(width >= 1.0 && height >= 1.0 && width <= SIDE_LIMIT && height <= SIDE_LIMIT) {
        return Err(DrawError(format!("{width} x {height} pixels; 1 to {SIDE_LIMIT} a side are right")));
    }
    let mut pixels = Pixmap::new(width as u32, height as u32)
        .ok_or_else(|| DrawError(format!("no memory for {width} x {height} pixels")))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| DrawError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_without_any_font_of_the_system() {
        let svg = r#"<svg width="80" height="20" xmlns="http://www.w3.org/2000/svg">
            <text x="2" y="15" font-family="Inter, sans-serif" font-size="14">74 °C µW</text></svg>"#;
        let pixels = Pixmap::decode_png(&render(svg, 1.0).unwrap()).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (80, 20));
        let inked = pixels.pixels().iter().filter(|pixel| pixel.alpha() > 128).count();
        assert!(inked > 80, "{inked} dark pixels");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(render("no svg", 1.0).is_err());
        let svg = r#"<svg width="80" height="20" xmlns="http://www.w3.org/2000/svg"/>"#;
        assert!(render(svg, 1e6).is_err() && render(svg, f32::NAN).is_err() && render(svg, 0.0).is_err());
    }
}
