//! Holds documents and declared identifiers to the banned words of docs/GLOSSARY.md.

use std::collections::{BTreeMap, BTreeSet};

use super::{documents, read, root, sources};

const GLOSSARY: &str = "docs/GLOSSARY.md";

/// Documents that still use banned words. This list only shrinks.
const DOCUMENTS_NOT_CONVERTED: &[&str] = &[];

/// Folders whose code still declares banned identifiers. This list only shrinks.
const CODE_NOT_CONVERTED: &[&str] = &[];

#[test]
fn documents_use_the_words_of_the_glossary() {
    let banned = Glossary::read().phrases;
    let mut found = BTreeMap::new();
    for path in documents() {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if name != GLOSSARY {
            found.insert(name.clone(), banned_phrases(&name, &read(&name), &banned));
        }
    }
    check(&found, DOCUMENTS_NOT_CONVERTED, "DOCUMENTS_NOT_CONVERTED");
}

#[test]
fn code_declares_no_banned_identifier() {
    let banned = Glossary::read().identifiers;
    let mut found = BTreeMap::new();
    for (path, text) in sources() {
        let folder = path.split_once("/src/").map_or("src", |(folder, _)| folder).to_owned();
        let uses: &mut Vec<String> = found.entry(folder).or_default();
        for (number, line) in text.lines().enumerate() {
            for name in declared(line) {
                if let Some(instead) = banned.get(name) {
                    uses.push(format!("{path}:{}: `{name}`: write {instead}", number + 1));
                }
            }
        }
    }
    check(&found, CODE_NOT_CONVERTED, "CODE_NOT_CONVERTED");
}

#[test]
fn glossary_rows_are_well_formed() {
    let glossary = Glossary::read();
    assert!(glossary.terms.len() >= 60, "{GLOSSARY}: found {} terms, expected 60", glossary.terms.len());
    assert!(glossary.phrases.len() > 20 && glossary.identifiers.len() > 20, "{GLOSSARY}: tables not found");
    for term in &glossary.terms {
        assert!(!glossary.phrases.contains_key(term), "{GLOSSARY}: `{term}` is both a term and banned");
    }
}

#[test]
fn phrases_are_found_in_prose_only() {
    let banned = BTreeMap::from([("the map".to_owned(), "topology".to_owned())]);
    let uses = |text: &str| banned_phrases("x.md", text, &banned).len();
    assert_eq!(uses("read The\nmap, then"), 1);
    assert_eq!(uses("the mapping; `the map`; [x](the map)\n```\nthe map\n```\n<!-- the map -->"), 0);
    assert_eq!(uses("[the map](x.md)"), 1);
}

/// Fails for uses outside of the list, and for entries of the list without uses.
fn check(found: &BTreeMap<String, Vec<String>>, not_converted: &[&str], list: &str) {
    let new: Vec<_> = found
        .iter()
        .filter(|(name, _)| !not_converted.contains(&name.as_str()))
        .flat_map(|(_, uses)| uses)
        .map(String::as_str)
        .collect();
    assert!(
        new.is_empty(),
        "{} banned words. Use the word of {GLOSSARY}; do not add to {list}.\n{}",
        new.len(),
        new.join("\n")
    );
    let converted: Vec<_> =
        not_converted.iter().filter(|name| found.get(**name).is_none_or(Vec::is_empty)).collect();
    assert!(
        converted.is_empty(),
        "{converted:?} have no banned words any more: remove them from {list} in tests/docs/glossary.rs"
    );
}

struct Glossary {
    terms: BTreeSet<String>,
    /// Banned phrase in lower case, and its replacement.
    phrases: BTreeMap<String, String>,
    /// Banned identifier, and its replacement.
    identifiers: BTreeMap<String, String>,
}

impl Glossary {
    fn read() -> Self {
        let text = read(GLOSSARY);
        let mut glossary =
            Self { terms: BTreeSet::new(), phrases: BTreeMap::new(), identifiers: BTreeMap::new() };
        let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            match cells.as_slice() {
                ["term", ..] | ["not", "but"] => {}
                [term, _, _, not] => {
                    assert!(glossary.terms.insert((*term).to_owned()), "{GLOSSARY}: `{term}` stands twice");
                    glossary.phrases.extend(list(not).map(|phrase| (phrase, (*term).to_owned())));
                }
                [not, but] if not.starts_with('`') => {
                    let pairs = list(not).zip(list(but));
                    let names = pairs.map(|(name, instead)| (name.trim_matches('`').to_owned(), instead));
                    glossary.identifiers.extend(names);
                    let (banned, instead) = (list(not).count(), list(but).count());
                    assert_eq!(banned, instead, "{GLOSSARY}: a replacement for each identifier: {row}");
                }
                [not, but] => glossary.phrases.extend(list(not).map(|phrase| (phrase, (*but).to_owned()))),
                _ => panic!("{GLOSSARY}: expected 2 or 4 cells, found {}: {row}", cells.len()),
            }
        }
        glossary
    }
}

fn list(cell: &str) -> impl Iterator<Item = String> {
    cell.split(',').map(|phrase| phrase.trim().to_owned()).filter(|phrase| !phrase.is_empty())
}

/// Returns the banned phrases in a document's prose: outside of code, link targets and comments.
fn banned_phrases(name: &str, text: &str, banned: &BTreeMap<String, String>) -> Vec<String> {
    let prose = prose(text).to_lowercase();
    let mut uses = Vec::new();
    let flat = prose.replace('\n', " ");
    for (phrase, instead) in banned {
        for (at, _) in flat.match_indices(phrase.as_str()) {
            let before = flat.get(..at).and_then(|text| text.chars().next_back());
            let after = flat.get(at + phrase.len()..).and_then(|text| text.chars().next());
            if ![before, after].into_iter().flatten().any(char::is_alphanumeric) {
                let line = prose.get(..at).unwrap_or_default().matches('\n').count() + 1;
                uses.push(format!("{name}:{line}: `{phrase}`: write {instead}"));
            }
        }
    }
    uses
}

/// Replaces code blocks, code spans, link targets and comments by spaces, and keeps line breaks.
fn prose(text: &str) -> String {
    let mut prose = text.to_owned();
    for (open, close) in [("\n```", "\n```"), ("<!--", "-->"), ("`", "`"), ("](", ")")] {
        let mut kept = String::new();
        let mut rest = prose.as_str();
        while let Some((before, after)) = rest.split_once(open) {
            let Some((inner, behind)) = after.split_once(close) else { break };
            kept.push_str(before);
            kept.push_str(&blank(open));
            kept.push_str(&blank(inner));
            kept.push_str(&blank(close));
            rest = behind;
        }
        kept.push_str(rest);
        prose = kept;
    }
    prose
}

fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Returns the identifiers that a line of Rust declares.
fn declared(line: &str) -> impl Iterator<Item = &str> {
    const KEYWORDS: [&str; 8] = ["struct", "enum", "trait", "type", "fn", "const", "static", "mod"];
    let code = line.split("//").next().unwrap_or_default();
    let words: Vec<&str> = code.split(' ').filter(|word| !word.is_empty()).collect();
    let pairs: Vec<(&str, &str)> = words.iter().copied().zip(words.iter().skip(1).copied()).collect();
    pairs.into_iter().filter(|(keyword, _)| KEYWORDS.contains(keyword)).map(|(_, name)| {
        let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
        name.get(..end).unwrap_or_default()
    })
}
