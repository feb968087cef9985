//! Plots as SVG, for docs/performance.md.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::BenchError;
use crate::report::Spread;

/// Values plotted against one axis.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Title.
    pub title: String,
    /// Axis of the setting, or of time.
    pub x: Axis,
    /// Axis of the measured value.
    pub y: Axis,
    /// Curves.
    pub curves: Vec<Curve>,
}

/// Axis of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// True for a logarithmic scale.
    pub log: bool,
}

/// Measured points, connected by lines.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// Setting and measured value: the median, with a bar from minimum to maximum.
    pub points: Vec<(f64, Spread)>,
}

/// Width and height, in pixels.
const SIZE: (u32, u32) = (760, 420);
/// Palette for readers with colour vision deficiency: Okabe and Ito, "Color Universal Design", 2008.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const FONT: &str = "sans-serif";

impl Plot {
    /// Draws the plot.
    ///
    /// # Errors
    /// If the plot has no points.
    pub fn svg(&self) -> Result<String, BenchError> {
        let failed = |error: String| BenchError::Plot { title: self.title.clone(), error };
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let (x0, x1) = (least(&mut points().map(|(x, _)| *x)), most(&mut points().map(|(x, _)| *x)));
        let (y0, y1) = (least(&mut points().map(|(_, y)| y.least)), most(&mut points().map(|(_, y)| y.most)));
        if ![x0, x1, y0, y1].iter().all(|value| value.is_finite()) {
            return Err(failed("there are no points".to_owned()));
        }
        // Leaves a margin. Linear axes begin at 0, so that proportions are visible.
        let range = |log: bool, least: f64, most: f64| match log {
            true => least / 1.25..most * 1.25,
            false => 0.0..most * 1.1,
        };
        let (xs, ys) = (range(self.x.log, x0, x1), range(self.y.log, y0, y1));
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            area.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
            let drawn = match (self.x.log, self.y.log) {
                (true, true) => self.draw(&area, xs.log_scale(), ys.log_scale()),
                (true, false) => self.draw(&area, xs.log_scale(), ys),
                (false, true) => self.draw(&area, xs, ys.log_scale()),
                (false, false) => self.draw(&area, xs, ys),
            };
            drawn.and_then(|()| area.present().map_err(|e| e.to_string())).map_err(failed)?;
        }
        Ok(svg)
    }

    fn draw<X, Y>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        xs: X,
        ys: Y,
    ) -> Result<(), String>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let to_text = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 17))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(xs, ys)
            .map_err(to_text)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .axis_desc_style((FONT, 14))
            .label_style((FONT, 13))
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_label_formatter(&|value| format_value(*value))
            .y_label_formatter(&|value| format_value(*value))
            .draw()
            .map_err(to_text)?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.into_iter().cycle()) {
            let medians = curve.points.iter().map(|(x, y)| (*x, y.median));
            chart
                .draw_series(LineSeries::new(medians.clone(), colour.stroke_width(2)))
                .map_err(to_text)?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            // Hundreds of points need no markers.
            if curve.points.len() <= 20 {
                let bars = curve.points.iter().map(|(x, y)| {
                    PathElement::new([(*x, y.least), (*x, y.most)], colour.mix(0.5).stroke_width(2))
                });
                chart.draw_series(bars).map_err(to_text)?;
                chart.draw_series(medians.map(|at| Circle::new(at, 4, colour.filled()))).map_err(to_text)?;
            }
        }
        if self.curves.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(190, 190, 190))
                .label_font((FONT, 13))
                .draw()
                .map_err(to_text)?;
        }
        Ok(())
    }
}

/// Formats an axis value with a unit prefix: 40 k, 1 M.
fn format_value(value: f64) -> String {
    let of = |divisor: f64, unit: &str| {
        let digits = format!("{:.2}", value / divisor);
        format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
    };
    match value.abs() {
        size if size >= 1e6 => of(1e6, " M"),
        size if size >= 1e4 => of(1e3, " k"),
        _ => of(1.0, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(log: bool, points: &[(f64, f64)]) -> Plot {
        let axis = |label: &str| Axis { label: label.to_owned(), log };
        let spread = |y: f64| Spread { median: y, least: y * 0.9, most: y * 1.1 };
        let points: Vec<_> = points.iter().map(|(x, y)| (*x, spread(*y))).collect();
        let curve = |name: &str| Curve { name: name.to_owned(), points: points.clone() };
        Plot {
            title: "cost".into(),
            x: axis("sessions"),
            y: axis("CPU-s"),
            curves: vec![curve("one"), curve("two")],
        }
    }

    #[test]
    fn plot_contains_points_labels_and_names() {
        for log in [true, false] {
            let svg = plot(log, &[(10.0, 3.0), (100.0, 4.0), (1_000.0, 50.0)]).svg().unwrap();
            for word in ["cost", "sessions", "CPU-s", "one", "two"] {
                assert!(svg.contains(&format!("\n{word}\n")), "{word}: {svg}");
            }
            assert_eq!(svg.matches("<circle").count(), 6, "{svg}");
        }
    }

    #[test]
    fn plot_without_points_is_an_error() {
        let error = plot(true, &[]).svg().unwrap_err().to_string();
        assert!(error.contains("cost") && error.contains("no points"), "{error}");
    }

    #[test]
    fn axis_values_are_formatted() {
        for (value, text) in
            [(0.0, "0"), (2.5, "2.5"), (1_000.0, "1000"), (40_000.0, "40 k"), (1.5e6, "1.5 M")]
        {
            assert_eq!(format_value(value), text);
        }
    }
}
