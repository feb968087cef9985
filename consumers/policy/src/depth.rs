//! How deep the tree of a policy gets, before it is a tree: Cedar's parser, validator and evaluator recurse over it, and so does
//! what prepares it for being asked.
//!
//! Brackets nest, and so do chains: `a || b || c` is `(a || b) || c`. What is counted is never less than the depth of Cedar's
//! tree: an operator counts one, as it does in a chain; of the two sides of `||` and `&&`, and of a list's elements, the deeper
//! one counts.

/// Deepest that a policy may be. A debug build needs 100 KiB of stack for each level
/// ([`STACK_BYTES`](agentgov_schemas::bounds::STACK_BYTES)).
pub(crate) const MAX_DEPTH: usize = 256;

/// Where a policy gets deeper than `most`, in bytes. `None`: nowhere.
pub(crate) fn deeper_than(text: &str, most: usize) -> Option<usize> {
    let mut open = Open { frames: vec![Frame::default()], path: 0, most };
    let mut chars = text.char_indices().peekable();
    // What follows a dot is an attribute, whatever its name.
    let mut is_attribute = false;
    while let Some((at, c)) = chars.next() {
        let after_dot = is_attribute && !c.is_whitespace();
        is_attribute &= c.is_whitespace();
        let mut next_is = |wanted: char| chars.next_if(|(_, next)| *next == wanted).is_some();
        let fits = match c {
            '/' if next_is('/') => {
                while chars.next().is_some_and(|(_, c)| !matches!(c, '\n' | '\r')) {}
                true
            }
            '"' => {
                while let Some((_, c)) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                true
            }
            '(' | '[' | '{' => open.operator() && open.open(Kind::Bracket),
            ')' | ']' | '}' => open.close_bracket(),
            ',' | ';' => {
                open.close_ifs();
                open.separate()
            }
            '|' if next_is('|') => open.or(),
            '&' if next_is('&') => open.and(),
            '=' | '!' | '<' | '>' => {
                next_is('=');
                open.operator()
            }
            '+' | '-' | '*' | '/' | '%' => open.operator(),
            '.' => {
                is_attribute = true;
                open.operator()
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let mut end = at + 1;
                while chars.next_if(|(_, c)| *c == '_' || c.is_ascii_alphanumeric()).is_some() {
                    end += 1;
                }
                match text.get(at..end).unwrap_or_default() {
                    _ if after_dot => true,
                    "has" | "like" | "in" | "is" => open.operator(),
                    "if" => open.operator() && open.open(Kind::If { has_else: false }),
                    "then" => open.then(),
                    "else" => open.begin_else(),
                    _ => true,
                }
            }
            _ => true,
        };
        if !fits {
            return Some(at);
        }
    }
    None
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Bracket,
    /// From `if` to where the expression around it ends.
    If { has_else: bool },
}

/// What stands within one pair of brackets, so far.
#[derive(Default)]
struct Frame {
    kind: Kind,
    /// `||` in this element, and the deepest of what they join.
    ors: usize,
    deepest_or: usize,
    /// `&&` in this side of `||`, and the deepest of what they join.
    ands: usize,
    deepest_and: usize,
    /// Other operators in this side of `&&`, and the deepest of what stands in brackets there.
    operators: usize,
    inner: usize,
    /// The deepest of the elements before.
    element: usize,
}

impl Frame {
    /// The operators of this element that enclose what comes next.
    const fn above(&self) -> usize {
        self.ors + self.ands + self.operators
    }

    fn side_of_and(&self) -> usize {
        self.deepest_and.max(self.operators + self.inner)
    }

    fn side_of_or(&self) -> usize {
        self.deepest_or.max(self.ands + self.side_of_and())
    }

    fn depth(&self) -> usize {
        self.element.max(self.ors + self.side_of_or())
    }
}

/// The brackets that are open. Each step says whether all is within the bound still.
struct Open {
    frames: Vec<Frame>,
    /// The sum of [`Frame::above`] of all but the last.
    path: usize,
    most: usize,
}

impl Open {
    fn step(&mut self, change: impl FnOnce(&mut Frame)) -> bool {
        let Some(frame) = self.frames.last_mut() else { return true };
        change(frame);
        self.path + frame.depth() <= self.most
    }

    fn operator(&mut self) -> bool {
        self.step(|frame| frame.operators += 1)
    }

    fn and(&mut self) -> bool {
        self.step(|frame| {
            frame.deepest_and = frame.side_of_and();
            (frame.operators, frame.inner) = (0, 0);
            frame.ands += 1;
        })
    }

    fn or(&mut self) -> bool {
        self.step(|frame| {
            frame.deepest_or = frame.side_of_or();
            (frame.ands, frame.deepest_and, frame.operators, frame.inner) = (0, 0, 0, 0);
            frame.ors += 1;
        })
    }

    fn separate(&mut self) -> bool {
        self.step(|frame| {
            *frame = Frame { kind: frame.kind, element: frame.depth(), ..Frame::default() };
        })
    }

    fn open(&mut self, kind: Kind) -> bool {
        self.path += self.frames.last().map_or(0, Frame::above);
        self.frames.push(Frame { kind, ..Frame::default() });
        self.path <= self.most
    }

    fn close(&mut self) -> bool {
        // One bracket too many is the parser's to report.
        if self.frames.len() < 2 {
            return true;
        }
        let closed = self.frames.pop().unwrap_or_default().depth();
        self.path -= self.frames.last().map_or(0, Frame::above);
        self.step(|frame| frame.inner = frame.inner.max(closed))
    }

    fn top(&self) -> Kind {
        self.frames.last().map_or(Kind::Bracket, |frame| frame.kind)
    }

    fn close_ifs(&mut self) -> bool {
        while self.top() != Kind::Bracket {
            if !self.close() {
                return false;
            }
        }
        true
    }

    fn close_bracket(&mut self) -> bool {
        self.close_ifs() && self.close()
    }

    fn then(&mut self) -> bool {
        self.top() == Kind::Bracket || self.separate()
    }

    fn begin_else(&mut self) -> bool {
        while self.top() == (Kind::If { has_else: true }) {
            if !self.close() {
                return false;
            }
        }
        self.top() == Kind::Bracket
            || (self.step(|frame| frame.kind = Kind::If { has_else: true }) && self.separate())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentgov_schemas::bounds::STACK_BYTES;
    use cedar_policy::Policy;
    use cedar_policy::pst::Expr;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::index::static_template;
    use crate::partial_eval::body;
    use crate::rewrite::map_operands;

    fn depth(text: &str) -> usize {
        (0..).find(|most| deeper_than(text, *most).is_none()).unwrap()
    }

    #[test]
    fn chains_and_brackets_count_and_lists_do_not() {
        let chain = |unit: &str, n: usize| vec![unit; n].join(" || ");
        for (text, expected) in [
            ("a", 0),
            ("a || b", 1),
            (&chain("a", 100), 99),
            (&chain("a.b == \"(((\"", 100), 101),
            ("a && b || c && d", 2),
            ("(((a)))", 3),
            ("[1, 2, 3, 4, 5, 6]", 1),
            ("[1, [2], 3, [[4]], 5]", 3),
            ("{a: 1, b: {c: 2}}", 2),
            ("a[\"b\"][\"c\"]", 2),
            ("a.b.c", 2),
            ("a.contains(b).contains(c)", 4),
            ("if a then b else if c then d else e", 2),
            ("if a then if b then c else d else if e then f else g", 2),
            ("[if a then b else c, if a then b else c]", 2),
            ("!!a", 2),
            ("1 + 2 - 3 * 4 < 5", 4),
            ("context has a.b.c", 3),
            ("principal in resource", 1),
            ("\"|| \\\" ||\" // || && (((\n", 0),
            ("// ||\r || a", 1),
            ("a.then.then. else.if.if", 5),
            ("if a.then.b then c.else else 1if", 3),
            ("{then: a.b.c, else: d}", 3),
            ("permit (principal, action, resource) when { a } unless { b };", 3),
            ("A::B::\"c\"", 0),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    /// Depth of an expression: an operator is one level.
    fn depth_of_tree(expr: &Arc<Expr>) -> usize {
        let mut deepest = 0;
        map_operands(expr, &mut |operand| {
            deepest = deepest.max(depth_of_tree(operand));
            Arc::clone(operand)
        });
        let is_leaf = matches!(**expr, Expr::Literal(_) | Expr::Var(_) | Expr::Slot(_));
        deepest + usize::from(!is_leaf)
    }

    fn expression() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec!["true", "1", "\"a(\"", "principal", "context", "Tool::\"a\""]);
        leaf.prop_map(str::to_owned).prop_recursive(6, 30, 4, |inner| {
            let pair = (inner.clone(), inner.clone());
            let three = (inner.clone(), inner.clone(), inner.clone());
            let some = prop::collection::vec(inner.clone(), 2..5);
            let join = prop::sample::select(vec![" || ", " && ", " + ", " - ", " * "]);
            prop_oneof![
                (some.clone(), join).prop_map(|(all, join)| all.join(join)),
                some.prop_map(|all| format!("[{}]", all.join(", "))),
                pair.clone().prop_map(|(a, b)| format!("({a}) == ({b})")),
                pair.clone().prop_map(|(a, b)| format!("({a}).contains({b})")),
                pair.prop_map(|(a, b)| format!("{{a: {a}, \"b\": {b}}}[\"a\"]")),
                three.clone().prop_map(|(a, b, c)| format!("if {a} then {b} else {c}")),
                three.prop_map(|(a, b, c)| format!("(if {a} then {b} else {c}) || {a}")),
                inner.clone().prop_map(|a| format!("!({a})")),
                inner.clone().prop_map(|a| format!("-({a})")),
                inner.clone().prop_map(|a| format!("({a}).a.b")),
                inner.prop_map(|a| format!("({a}) has a")),
            ]
        })
    }

    /// On a stack that Cedar needs for it.
    #[test]
    fn never_less_than_the_tree() {
        let check = || {
            TestRunner::default().run(&expression(), |expression| {
                let text = format!("permit (principal, action, resource) when {{ {expression} }};");
                // Some of what is generated is no Cedar, e.g. `if` as an operand without brackets.
                if let Ok(policy) = Policy::parse(None, &text) {
                    let template = static_template(&policy).unwrap();
                    // One more for the bracket of the scope, and one for the condition's.
                    let tree = 2 + depth_of_tree(body(&template.clauses()[0]));
                    prop_assert!(deeper_than(&text, tree - 1).is_some(), "{text}: {tree}");
                }
                Ok(())
            })
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(check).unwrap().join().unwrap().unwrap();
    }
}
