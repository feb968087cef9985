//! Tests of the format's dialects, ids and labels, and of text around the JSON of a file.

use super::*;

/// A file in each dialect, and its events.
#[test]
fn each_dialect_has_its_events() {
    let png = format!("[image/png, 5 bytes, sha256:{}]", Digest::of(b"PIXEL"));
    let wav = format!("[audio/wav, 3 bytes, sha256:{}]", Digest::of(b"RIF"));
    let pdf = format!("[application/pdf, 3 bytes, sha256:{}, bill.pdf]", Digest::of(b"RIF"));
    let odd = format!("[image/png, 3 bytes that are no base64, sha256:{}]", Digest::of(b"a*b"));
    let input = |text: &str| format!("user.input {text}");
    let cases: Vec<(&str, &str, Vec<String>)> = vec![
        (
            "legacy functions",
            r#"{"messages":[{"role":"developer","content":"d"},
                {"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\": 1}"}},
                {"role":"function","name":"f","content":"r"}]}"#,
            vec![
                "llm.input_sent d".into(),
                r#"tool.invoked f#m1-call-0 {"a": 1}"#.into(),
                "tool.response_received f#m1-call-0 r".into(),
            ],
        ),
        (
            "tau2: flat calls, id of the answer, results of a user's simulator, a file of simulations",
            r#"{"info":{"n":1},"tasks":[{"id":"t"}],"simulations":[{"id":"s","task_id":"0","trial":0,"messages":[
                {"role":"assistant","content":null,"tool_calls":[{"id":"t1","name":"f","arguments":{"a" : 1.0},"requestor":"assistant"}]},
                {"id":"t1","role":"tool","content":{"b" : [1.0]},"requestor":"assistant","error":false}]}]}"#,
            vec![
                r#"tool.invoked f#t1 {"a" : 1.0}"#.into(),
                r#"tool.response_received #t1 {"b" : [1.0]}"#.into(),
            ],
        ),
        (
            "tau2: an answer to a call of the simulated user is none of the agent's call",
            r#"[{"role":"assistant","tool_calls":[{"name":"f"}]},{"role":"user","tool_calls":[{"id":"u1","name":"g","requestor":"user"}]},
                {"id":"u1","role":"tool","content":"of user","requestor":"user"},{"role":"tool","content":"r"}]"#,
            vec![
                "tool.invoked f#m0-call-0 {}".into(),
                input(""),
                "tool.response_received #u1 of user".into(),
                "tool.response_received #m0-call-0 r".into(),
            ],
        ),
        (
            "LangChain with Anthropic: a call is in the content and in tool_calls",
            r#"[{"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"f","input":{}}],"tool_calls":[{"id":"t1","name":"f","args":{},"type":"tool_call"}]}]"#,
            vec!["tool.invoked f#t1 {}".into()],
        ),
        (
            "AgentDojo: function and args, text in content, an error in place of the answer",
            r#"{"suite_name":"s","messages":[{"role":"user","content":[{"type":"text","content":"hi"}]},
                {"role":"assistant","content":null,"tool_calls":[{"function":"f","args":{"c":"P"},"id":"c1"}]},
                {"role":"tool","content":[{"type":"text","content":""}],"tool_call_id":"c1","tool_call":{"function":"f"},"error":"no such"}]}"#,
            vec![
                input("hi"),
                r#"tool.invoked f#c1 {"c":"P"}"#.into(),
                "tool.response_received #c1 failed no such".into(),
            ],
        ),
        (
            "tau-bench: traj",
            r#"[{"task_id":0,"traj":[{"role":"user","content":"a"}],"reward":1.0}]"#,
            vec![input("a")],
        ),
        ("nothing but messages", r#"[{"role":"user","content":"a"}]"#, vec![input("a")]),
        ("an array of arrays of messages", r#"[[{"role":"user","content":"a"}]]"#, vec![input("a")]),
        (
            "parts of OpenAI",
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"see "},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,UElYRUw="}},{"type":"text","text":"!"}]},
                {"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.test/a.png"}}]},
                {"role":"user","content":[{"type":"input_audio","input_audio":{"data":"UklG","format":"wav"}}]},
                {"role":"user","content":[{"type":"file","file":{"filename":"bill.pdf","file_data":"data:application/pdf;base64,UklG"}}]},
                {"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]},
                {"role":"user","content":["a","b"]},
                {"role":"user","content":[{"type":"input_text","text":"c"},{"type":"text","text":null}]}]}"#,
            vec![
                input(&format!("see {png}!")),
                input("[image, https://x.test/a.png]"),
                input(&wav),
                input(&pdf),
                input("[file, id file-1]"),
                input("ab"),
                input("c"),
            ],
        ),
        (
            "parts of MCP",
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"one"}},
                {"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"see "},
                {"type":"image","data":"UElYRUw","mimeType":"image/png"},{"type":"audio","data":"UklG","mimeType":"audio/wav"},
                {"type":"resource","resource":{"uri":"file:///a","mimeType":"text/plain","text":"inside"}},
                {"type":"resource_link","uri":"file:///b","name":"b"}]},
                {"role":"user","content":[{"type":"image","data":"a*b","mimeType":"image/png"}]}]}"#,
            vec![
                input("one"),
                format!("tool.response_received #c see {png}{wav}inside[resource, file:///b, b]"),
                input(&odd),
            ],
        ),
        (
            "parts of Anthropic: calls and results among them",
            r#"{"messages":[{"role":"assistant","content":[{"type":"text","text":"now"},{"type":"tool_use","id":"t1","name":"f","input":{"a":1}}]},
                {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","is_error":true,"content":[{"type":"text","text":"bad"}]}]},
                {"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"UElYRUw="}}]}]}"#,
            vec![
                "output.displayed now".into(),
                r#"tool.invoked f#t1 {"a":1}"#.into(),
                "tool.response_received #t1 failed bad".into(),
                input(&png),
            ],
        ),
        (
            "arguments of every kind",
            r#"{"messages":[{"role":"assistant","tool_calls":[
                {"id":"1","function":{"name":"f","arguments":{"a":NaN,"a":1e400}}},{"id":"2","function":{"name":"f"}},
                {"id":"3","function":{"name":"f","arguments":null}},{"id":"4","function":{"name":"f","arguments":""}},
                {"id":"5","function":{"name":"f","arguments":[1, 2]}},{"id":"6","function":{"name":"f","arguments":"{'a'"}},
                {"id":7,"type":"custom","custom":{"name":"g","input":"x y"}}]}]}"#,
            [r#"f#1 {"a":NaN,"a":1e400}"#, "f#2 {}", "f#3 {}", "f#4 ", "f#5 [1, 2]", "f#6 {'a'", "g#7 x y"]
                .map(|call| format!("tool.invoked {call}"))
                .into(),
        ),
        (
            "data of a tool that has a type is no part",
            r#"{"messages":[{"role":"tool","tool_call_id":"c","content":[{"type":"flight","price":1}]},
                {"role":"tool","tool_call_id":"c","content":[{"type":"image"}]},
                {"role":"tool","tool_call_id":"c","content":true},{"role":"tool","tool_call_id":"c","content":[]}]}"#,
            [r#"[{"type":"flight","price":1}]"#, r#"[{"type":"image"}]"#, "true", ""]
                .map(|text| format!("tool.response_received #c {text}"))
                .into(),
        ),
    ];
    for (name, file, expected) in cases {
        assert_eq!(story(file), expected, "{name}");
    }
}

#[test]
fn ignored_fields_accept_any_value() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let file = format!(
        r#"{{"reward":NaN,"x":-Infinity,"s":"\ud83d","deep":{deep},"messages":[{{"role":"user","content":"a\ud83d","x":{deep}}}]}}"#
    );
    assert_eq!(story(&file), ["user.input a\u{fffd}"]);
    // A result that is used keeps its bytes.
    let file = format!(r#"[{{"role":"tool","tool_call_id":"c","content":{deep}}}]"#);
    assert_eq!(story(&file), [format!("tool.response_received #c {deep}")]);
}

/// Parts within parts are read once, at any depth. A quadratic reader would not end; a recursive one would overflow.
#[test]
fn nested_parts_are_read_once() {
    let import = |content: &str, role: &str| {
        let file = format!(r#"{{"messages":[{{"role":"{role}","content":{content}}}]}}"#);
        match parse("f", file.as_bytes(), options()) {
            Ok(import) => assert_eq!(import.summary().sessions, 1),
            Err(error) => assert!(matches!(error, ImportError::Problems(_)), "{error}"),
        }
    };
    let result = r#"{"type":"tool_result","tool_use_id":"1","content":"#;
    let nested = |levels: usize, open: &str, close: &str| {
        format!("{}\"x\"{}", open.repeat(levels), close.repeat(levels))
    };
    import(&format!("[{}]", nested(100_000, result, "}")), "user");
    for (open, close) in [
        (result.to_owned(), "}"),
        (format!("{result}["), "]}"),
        (format!(r#"{result}{{"content":"#), "}}"),
        (r#"{"type":"tool_result","content":"#.to_owned(), "}"),
        (r#"[{"type":"text","text":"t","content":"#.to_owned(), "}]"),
        (r#"{"type":"text","text":{"value":"#.to_owned(), "}}"),
        (r#"{"content":"#.to_owned(), "}"),
        (r#"{"type":"image","image":"#.to_owned(), "}"),
        (r#"{"type":"refusal","refusal":"#.to_owned(), "}"),
    ] {
        let nested = nested(10_000, &open, close);
        import(&format!("[{nested}]"), "user");
        import(&format!("[{result}{nested}}}]"), "user");
        import(&nested, "tool");
    }
}

/// A result within a result belongs to no call of the log: it stays part of the outer result, byte for byte.
#[test]
fn nested_result_keeps_its_bytes() {
    for inner in [
        r#"{"type":"tool_result","tool_use_id":"2","content":{"type":"tool_result","tool_use_id":"3","content":"x"}}"#,
        r#"[{"type":"tool_result","tool_use_id":"2","content" : "x"}]"#,
        r#"{"type":"tool_use","id":"2","name":"f"}"#,
    ] {
        let result = format!(r#"{{"type":"tool_result","tool_use_id":"1","content":{inner}}}"#);
        let expected = [format!("tool.response_received #1 {inner}")];
        assert_eq!(story(&format!(r#"[{{"role":"user","content":[{result}]}}]"#)), expected);
        assert_eq!(story(&format!(r#"[{{"role":"user","content":{result}}}]"#)), expected);
    }
}

/// A presigned URL gives access to its file, so its signature is not logged.
#[test]
fn urls_are_recorded_without_secrets() {
    for (url, expected) in [
        ("https://x.test/a.png", "image, https://x.test/a.png"),
        ("https://x.test/a.png?X-Amz-Signature=SECRET&e=@", "image, https://x.test/a.png"),
        ("https://x.test/a.png#SECRET", "image, https://x.test/a.png"),
        ("https://x.test?SECRET", "image, https://x.test"),
        ("https://ada:SECRET@x.test:8443/a@2x.png?q#f", "image, https://x.test:8443/a@2x.png"),
        ("https://a:SEC@RET@x.test", "image, https://x.test"),
        ("//SECRET@x.test/a", "image, //x.test/a"),
        ("s3://bucket/a@b//c@d", "image, s3://bucket/a@b//c@d"),
        ("a//b@c", "image, a//b@c"),
    ] {
        for part in [
            format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#),
            format!(r#"{{"type":"image_url","image_url":"{url}"}}"#),
            format!(r#"{{"type":"image","source":{{"type":"url","url":"{url}"}}}}"#),
        ] {
            let file = format!(r#"[{{"role":"user","content":[{part}]}}]"#);
            assert_eq!(story(&file), [format!("user.input [{expected}]")], "{part}");
        }
    }
    let file = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"?SECRET"}}]}]"#;
    let found = story(file);
    assert!(found[0].contains("sha256:") && !found[0].contains("SECRET"), "{found:?}");
}

/// Results of one message without a call id, while no call is open.
#[test]
fn results_without_a_call_have_ids_of_their_own() {
    let result = |id: &str| format!(r#"{{"type":"tool_result"{id},"content":"r"}}"#);
    let message = |ids: &[&str]| {
        let parts: Vec<String> = ids.iter().map(|id| result(id)).collect();
        format!(r#"{{"role":"user","content":[{}]}}"#, parts.join(","))
    };
    let call = r#"{"role":"assistant","tool_calls":[{"name":"f"}]}"#.to_owned();
    for (messages, expected) in [
        (vec![message(&["", "", ""])], vec!["#m0-answer", "#m0-answer-1", "#m0-answer-2"]),
        (vec![message(&[""]), message(&["", ""])], vec!["#m0-answer", "#m1-answer", "#m1-answer-1"]),
        (vec![call, message(&["", "", ""])], vec!["f#m0-call-0", "#m0-call-0", "#m1-answer", "#m1-answer-1"]),
        (
            vec![message(&["", "", r#","tool_use_id":"m0-answer""#, r#","tool_use_id":"m0-answer-1""#])],
            vec!["#m0-answer'", "#m0-answer-1'", "#m0-answer", "#m0-answer-1"],
        ),
    ] {
        let found = story(&format!("[{}]", messages.join(",")));
        let found: Vec<&str> = found.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(found, expected);
    }
}

/// Results without ids are assigned to calls without ids. A generated id is never one that the file has.
#[test]
fn missing_ids_are_derived() {
    let calls = |calls: &[(&str, &str)]| {
        let call = |(id, name): &(&str, &str)| match *id {
            "-" => format!(r#"{{"name":"{name}"}}"#),
            id => format!(r#"{{"id":"{id}","name":"{name}"}}"#),
        };
        format!(
            r#"{{"role":"assistant","tool_calls":[{}]}}"#,
            calls.iter().map(call).collect::<Vec<_>>().join(",")
        )
    };
    let answer = |fields: &str| format!(r#"{{"role":"tool","content":"r"{fields}}}"#);
    for (name, messages, expected) in [
        (
            "in order",
            vec![calls(&[("-", "f"), ("", "g")]), answer(""), answer("")],
            vec!["f#m0-call-0", "g#m0-call-1", "#m0-call-0", "#m0-call-1"],
        ),
        (
            "by tool",
            vec![calls(&[("-", "f"), ("-", "g")]), answer(r#","name":"g""#), answer(r#","tool_name":"f""#)],
            vec!["f#m0-call-0", "g#m0-call-1", "g#m0-call-1", "#m0-call-0"],
        ),
        (
            "calls with ids, answers without",
            vec![calls(&[("a", "f"), ("b", "g")]), answer(r#","tool_call_id":"""#), answer("")],
            vec!["f#a", "g#b", "#a", "#b"],
        ),
        (
            "calls without ids, answers with",
            vec![
                calls(&[("-", "f"), ("-", "g")]),
                answer(r#","tool_call_id":"x""#),
                answer(r#","tool_call_id":"y""#),
            ],
            vec!["f#x", "g#y", "#x", "#y"],
        ),
        (
            "answers in another order, one before its call",
            vec![
                answer(r#","tool_call_id":"b""#),
                calls(&[("a", "f"), ("b", "g")]),
                answer(r#","tool_call_id":"b""#),
                answer(""),
            ],
            vec!["#b", "f#a", "g#b", "#b", "#a"],
        ),
        (
            "a message's own id is no call's",
            vec![calls(&[("a", "f")]), answer(r#","id":"msg_1""#), answer(r#","id":"a""#)],
            vec!["f#a", "#a", "#a"],
        ),
        (
            "more answers than calls",
            vec![calls(&[("-", "f")]), answer(""), answer(""), answer(r#","name":"h""#)],
            vec!["f#m0-call-0", "#m0-call-0", "#m2-answer", "h#m3-answer"],
        ),
        (
            "an id that looks derived",
            vec![calls(&[("m0-call-1", "f"), ("-", "g")]), answer("")],
            vec!["f#m0-call-1", "g#m0-call-1'", "#m0-call-1"],
        ),
    ] {
        let file = format!("{{\"messages\":[{}]}}", messages.join(","));
        let found: Vec<String> =
            story(&file).iter().map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn labels_identify_runs() {
    let labels = |file: &str, field: Option<&str>| {
        let options = ImportOptions { label: field.map(Into::into), ..options() };
        let import = parse("f", file.as_bytes(), options).unwrap();
        sessions(&import).iter().map(|session| session.label().to_owned()).collect::<Vec<_>>()
    };
    let file = concat!(
        r#"{"task_id":"t","trial":1,"messages":[]}"#,
        "\n",
        r#"{"task_id":"t","meta":{"id":7},"messages":[]}"#,
        "\n\n",
        r#"{"task_id":null,"trial":1,"meta.id":"x","messages":[]}{"messages":[]}"#,
        "\n",
        r#"{"task_id":1.50,"trial":-1,"messages":[]}"#,
    );
    assert_eq!(labels(file, None), ["t/1", "t", "line-4", "line-4.2", "1.50/-1"]);
    assert_eq!(labels(file, Some("meta.id")), ["line-1", "7", "x", "line-4.2", "line-5"]);
    let import = |label: Option<&str>| {
        let options = ImportOptions { label: label.map(Into::into), ..options() };
        parse("f", file.as_bytes(), options).unwrap().source_id()
    };
    assert_ne!(import(None), import(Some("meta.id")), "another label, another import");
}

/// Each run has its own place, and so its own ids, with any line ending.
#[test]
fn equal_runs_in_other_places_have_other_ids() {
    let run = r#"{"messages":[]}"#;
    let file = format!("{run}\n{run}\r{run}\r{run} {run}\n{run}\n{run}");
    let import = parse("f", file.as_bytes(), options()).unwrap();
    let sessions = sessions(&import);
    let places: Vec<String> = sessions.iter().map(|session| session.place().to_string()).collect();
    assert_eq!(places, ["1", "2", "3", "4", "4.2", "4.3", "4.4"]);
    let ids: std::collections::BTreeSet<_> = sessions.iter().map(ImportedSession::session_id).collect();
    assert_eq!(ids.len(), sessions.len());
}

#[test]
fn gzipped_file_has_the_same_ids() {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(RUN.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let import = |bytes: &[u8]| parse("f", bytes, options()).unwrap().source_id();
    assert_eq!(import(&packed), import(RUN.as_bytes()));
    for zeros in [1, 511, 200_000] {
        let padded = [packed.clone(), vec![0; zeros]].concat();
        assert_eq!(import(&padded), import(RUN.as_bytes()), "{zeros} zeros");
        let more = problems(&[padded, packed.clone()].concat());
        assert!(more.last().unwrap().contains("behind the zeros"), "{more:?}");
    }
    let found = problems(&[packed.clone(), b"x".to_vec()].concat());
    assert!(found.last().unwrap().contains("gzip that is damaged or cut off"), "{found:?}");
    let found = problems(&packed[..packed.len() - 9]);
    assert!(found.last().unwrap().contains("gzip that is damaged or cut off"), "{found:?}");
}

#[test]
fn file_changed_between_readings_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.jsonl");
    std::fs::write(&path, RUN).unwrap();
    let import = read(Input::open(&path).unwrap(), options()).unwrap();
    assert_eq!(sessions(&import).len(), 1);
    std::fs::write(&path, RUN.replace("be kind", "be rude")).unwrap();
    let last = import.sessions().last().unwrap();
    assert!(matches!(last, Err(ImportError::Changed { .. })), "{last:?}");
}
