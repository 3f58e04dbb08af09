//! Columns for people.

/// Lays out rows under a heading in columns as wide as their widest cell; the last one is not padded.
pub(super) fn columns<const N: usize>(heading: Option<[&str; N]>, rows: &[[String; N]]) -> String {
    let heading = heading.map(|heading| heading.map(str::to_owned));
    let lines: Vec<&[String; N]> = heading.iter().chain(rows).collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join(" ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["web", "a", ""], ["database", "bcd", "x"]].map(|row| row.map(str::to_owned));
        let text = columns(Some(["NAME", "B", "C"]), &rows);
        assert_eq!(text, "NAME     B   C\nweb      a\ndatabase bcd x\n");
        assert_eq!(columns::<1>(None, &[]), "");
    }
}
