//! Upper bound for the depth of a policy's syntax tree, computed from its text before parsing: Cedar's parser, validator and
//! evaluator are recursive, and so is the index.
//!
//! Brackets nest, and chains nest too: `a || b || c` is `(a || b) || c`. The bound is never less than the depth of Cedar's tree. Each
//! operator counts one level. Of the operands of `||` and `&&`, and of the elements of a list, the deepest counts.

/// Maximum depth of a policy. A debug build needs 100 KiB of stack for each level ([`STACK`](agentgov_schemas::bounds::STACK)).
pub(crate) const MAX_DEPTH: usize = 256;

/// Returns the byte offset at which a policy exceeds the depth `max`, or `None`.
pub(crate) fn first_too_deep(text: &str, max: usize) -> Option<usize> {
    let mut tracker = DepthTracker { frames: vec![Frame::default()], path: 0, max };
    let mut chars = text.char_indices().peekable();
    // An identifier after a dot is an attribute, even if it is a keyword.
    let mut is_attribute = false;
    while let Some((at, c)) = chars.next() {
        let after_dot = is_attribute && !c.is_whitespace();
        is_attribute &= c.is_whitespace();
        let mut next_is = |wanted: char| chars.next_if(|(_, next)| *next == wanted).is_some();
        let is_within = match c {
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
            '(' | '[' | '{' => tracker.operator() && tracker.open(FrameKind::Bracket),
            ')' | ']' | '}' => tracker.close_bracket(),
            ',' | ';' => {
                tracker.close_ifs();
                tracker.separate()
            }
            '|' if next_is('|') => tracker.or(),
            '&' if next_is('&') => tracker.and(),
            '=' | '!' | '<' | '>' => {
                next_is('=');
                tracker.operator()
            }
            '+' | '-' | '*' | '/' | '%' => tracker.operator(),
            '.' => {
                is_attribute = true;
                tracker.operator()
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let mut end = at + 1;
                while chars.next_if(|(_, c)| *c == '_' || c.is_ascii_alphanumeric()).is_some() {
                    end += 1;
                }
                match text.get(at..end).unwrap_or_default() {
                    _ if after_dot => true,
                    "has" | "like" | "in" | "is" => tracker.operator(),
                    "if" => tracker.operator() && tracker.open(FrameKind::If { has_else: false }),
                    "then" => tracker.then(),
                    "else" => tracker.begin_else(),
                    _ => true,
                }
            }
            _ => true,
        };
        if !is_within {
            return Some(at);
        }
    }
    None
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum FrameKind {
    #[default]
    Bracket,
    /// From `if` to the end of the enclosing expression.
    If { has_else: bool },
}

/// Depth within one pair of brackets, up to the current character.
#[derive(Default)]
struct Frame {
    kind: FrameKind,
    /// Number of `||` in this element, and the deepest of their operands.
    ors: usize,
    deepest_or: usize,
    /// Number of `&&` in this operand of `||`, and the deepest of their operands.
    ands: usize,
    deepest_and: usize,
    /// Number of other operators in this operand of `&&`, and the deepest bracket in it.
    operators: usize,
    inner: usize,
    /// Depth of the deepest element before this one.
    element: usize,
}

impl Frame {
    /// Returns the number of operators that enclose the next token in this element.
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

/// Open brackets. Each method returns false once the depth exceeds the limit.
struct DepthTracker {
    frames: Vec<Frame>,
    /// Sum of [`Frame::above`] over all frames except the last.
    path: usize,
    max: usize,
}

impl DepthTracker {
    fn update(&mut self, change: impl FnOnce(&mut Frame)) -> bool {
        let Some(frame) = self.frames.last_mut() else { return true };
        change(frame);
        self.path + frame.depth() <= self.max
    }

    fn operator(&mut self) -> bool {
        self.update(|frame| frame.operators += 1)
    }

    fn and(&mut self) -> bool {
        self.update(|frame| {
            frame.deepest_and = frame.side_of_and();
            (frame.operators, frame.inner) = (0, 0);
            frame.ands += 1;
        })
    }

    fn or(&mut self) -> bool {
        self.update(|frame| {
            frame.deepest_or = frame.side_of_or();
            (frame.ands, frame.deepest_and, frame.operators, frame.inner) = (0, 0, 0, 0);
            frame.ors += 1;
        })
    }

    fn separate(&mut self) -> bool {
        self.update(|frame| {
            *frame = Frame { kind: frame.kind, element: frame.depth(), ..Frame::default() };
        })
    }

    fn open(&mut self, kind: FrameKind) -> bool {
        self.path += self.frames.last().map_or(0, Frame::above);
        self.frames.push(Frame { kind, ..Frame::default() });
        self.path <= self.max
    }

    fn close(&mut self) -> bool {
        // The parser reports a surplus closing bracket.
        if self.frames.len() < 2 {
            return true;
        }
        let closed = self.frames.pop().unwrap_or_default().depth();
        self.path -= self.frames.last().map_or(0, Frame::above);
        self.update(|frame| frame.inner = frame.inner.max(closed))
    }

    fn top(&self) -> FrameKind {
        self.frames.last().map_or(FrameKind::Bracket, |frame| frame.kind)
    }

    fn close_ifs(&mut self) -> bool {
        while self.top() != FrameKind::Bracket {
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
        self.top() == FrameKind::Bracket || self.separate()
    }

    fn begin_else(&mut self) -> bool {
        while self.top() == (FrameKind::If { has_else: true }) {
            if !self.close() {
                return false;
            }
        }
        self.top() == FrameKind::Bracket
            || (self.update(|frame| frame.kind = FrameKind::If { has_else: true }) && self.separate())
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
        (0..).find(|max| first_too_deep(text, *max).is_none()).unwrap()
    }

    #[test]
    fn depth_counts_chains_and_brackets_but_not_list_elements() {
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

    /// Returns the depth of an expression; each operator is one level.
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

    /// Runs on a thread with the stack that Cedar needs at this depth.
    #[test]
    fn depth_is_at_least_that_of_the_tree() {
        let check = || {
            TestRunner::default().run(&expression(), |expression| {
                let text = format!("permit (principal, action, resource) when {{ {expression} }};");
                // Some generated texts are not valid Cedar, e.g. `if` as an operand without brackets.
                if let Ok(policy) = Policy::parse(None, &text) {
                    let template = static_template(&policy).unwrap();
                    // One level for the bracket of the scope, and one for that of the condition.
                    let tree = 2 + depth_of_tree(body(&template.clauses()[0]));
                    prop_assert!(first_too_deep(&text, tree - 1).is_some(), "{text}: {tree}");
                }
                Ok(())
            })
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(check).unwrap().join().unwrap().unwrap();
    }
}
