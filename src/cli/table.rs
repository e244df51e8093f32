//! Tables as Consul prints them: left-aligned columns, two blanks between, no borders.

/// Lays out rows of equal length; the last column is not padded. Ends with a newline.
pub(super) fn lay_out<Row: AsRef<[String]>>(rows: &[Row]) -> String {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.as_ref().get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.as_ref();
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < cells.len() {
                let blanks = widths[column] - cell.chars().count() + 2;
                line.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::lay_out;

    #[test]
    fn columns_are_two_blanks_apart() {
        let rows = [["Node".to_owned(), "DC".to_owned()], ["a-long-name".to_owned(), "dc1".to_owned()]];
        assert_eq!(lay_out(&rows), "Node         DC\na-long-name  dc1\n");
    }
}
