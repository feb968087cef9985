use proptest::prelude::*;

use super::*;

/// Decodes a block as the format's documentation describes it, for the columns of these tests.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }

    fn var_uint(&mut self) -> usize {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.bytes(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    fn text(&mut self) -> String {
        let n = self.var_uint();
        String::from_utf8(self.bytes(n).to_vec()).unwrap()
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().unwrap())
    }

    fn header(&mut self) -> (String, String) {
        (self.text(), self.text())
    }
}

fn block() -> Block {
    Block::new(vec![
        Column::new::<Text>("name"),
        Column::new::<Nullable<Int32>>("number"),
        Column::new::<List<Nullable<Text>>>("list"),
    ])
}

fn rows() -> impl Strategy<Value = Vec<(String, Option<i32>, Vec<Option<String>>)>> {
    // A length takes a second byte from 128 on.
    let text = || prop_oneof![".{0,4}", "x{126,130}"];
    let list = prop::collection::vec(prop::option::of(text()), 0..4);
    prop::collection::vec((text(), any::<Option<i32>>(), list), 0..6)
}

proptest! {
    #[test]
    fn encoded_block_decodes_to_the_values_put_in(rows in rows()) {
        let mut block = block();
        // A block that is used again behaves like a new one.
        for _ in 0..2 {
            block.clear();
            for (name, number, list) in &rows {
                let mut cells = block.row();
                cells.put::<Text>(name);
                cells.put::<Nullable<Int32>>(*number);
                cells.put::<List<Nullable<Text>>>(&mut list.iter().map(|item| item.as_deref()));
            }
        }
        let encoded = block.encode().unwrap();
        let mut reader = Reader(&encoded);
        prop_assert_eq!((reader.var_uint(), reader.var_uint()), (3, rows.len()));

        prop_assert_eq!(reader.header(), ("name".into(), "String".into()));
        for row in &rows {
            prop_assert_eq!(&reader.text(), &row.0);
        }
        prop_assert_eq!(reader.header(), ("number".into(), "Nullable(Int32)".into()));
        let nulls = reader.bytes(rows.len()).to_vec();
        for (row, null) in rows.iter().zip(nulls) {
            let value = i32::from_le_bytes(reader.bytes(4).try_into().unwrap());
            prop_assert_eq!((null == 0).then_some(value), row.1);
        }
        prop_assert_eq!(reader.header(), ("list".into(), "Array(Nullable(String))".into()));
        let ends: Vec<_> = rows.iter().map(|_| reader.u64()).collect();
        let mut sum = 0;
        for (row, end) in rows.iter().zip(&ends) {
            sum += row.2.len() as u64;
            prop_assert_eq!(*end, sum);
        }
        let nulls = reader.bytes(usize::try_from(sum).unwrap()).to_vec();
        for (item, null) in rows.iter().flat_map(|row| &row.2).zip(nulls) {
            let text = reader.text();
            prop_assert_eq!(text.as_str(), item.as_deref().unwrap_or_default());
            prop_assert_eq!(null == 1, item.is_none());
        }
        prop_assert!(reader.0.is_empty());
    }
}

#[test]
fn skipped_cell_has_the_default_value() {
    let mut block = block();
    let mut cells = block.row();
    cells.skip::<Text>();
    cells.skip::<Nullable<Int32>>();
    cells.skip::<List<Nullable<Text>>>();
    let encoded = block.encode().unwrap();
    let mut reader = Reader(&encoded);
    reader.bytes(2);
    reader.header();
    assert_eq!(reader.text(), "");
    reader.header();
    assert_eq!(reader.bytes(5), [1, 0, 0, 0, 0]);
    reader.header();
    assert_eq!(reader.bytes(8), [0; 8]);
    assert!(reader.0.is_empty());
}

#[test]
fn row_with_too_few_cells_is_an_error() {
    let mut block = block();
    block.row().put::<Text>("alone");
    assert_eq!(block.encode(), Err(CellCountError::TooFew { column: "number", expected: 1, found: 0 }));
}

#[test]
fn row_with_too_many_cells_is_an_error_until_the_block_is_cleared() {
    let mut block = Block::new(vec![Column::new::<Text>("text")]);
    for _ in 0..2 {
        block.row().put::<Text>("fits");
    }
    let mut cells = block.row();
    cells.skip::<Text>();
    cells.put::<Text>("does not");
    cells.skip::<Text>();
    assert_eq!(block.encode(), Err(CellCountError::TooMany { columns: 1, rows: 3, surplus: 2 }));
    block.clear();
    block.row().put::<Text>("fits");
    assert!(block.encode().is_ok());
}

#[test]
fn occurred_at_is_clamped_to_the_range_of_datetime64() {
    for (claimed, shown) in [
        (0, 0),
        (FIRST_MICROS, FIRST_MICROS),
        (FIRST_MICROS - 1, FIRST_MICROS),
        (i64::MIN, FIRST_MICROS),
        (7_258_118_400_000_000, 7_258_118_400_000_000),
        (i64::MAX, LAST_MICROS),
    ] {
        let mut buffers = [Vec::new()];
        OccurredAt::push(&mut buffers, Micros(claimed));
        assert_eq!(buffers[0], shown.to_le_bytes(), "{claimed}");
    }
}
