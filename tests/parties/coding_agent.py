"""A real coding agent against a scripted model on 127.0.0.1, with hooks that `agentgov hook install` wrote:

    tests/parties/coding_agent.py codex|gemini-cli NODE_MODULES AGENTGOV

A denied command does not run, an allowed one does; nothing runs while the gateway is stopped (SIGSTOP), slow or killed.
"""

import hashlib
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading

DEADLINE = 180
# Time that `agentgov hook` waits for an answer.
HOOK_SECONDS = 20
TOKEN = "token-of-the-party"

REGISTRY = """
agents:
  - tenant_id: party
    agent_id: coder
    name: Coding agent
    owner: developers
    roles: [coder]
    state: active
    description: Works in a folder.
tools: []
"""
FILES = {
    "bundle.yaml": 'name: party\nversion: "1"\nenvironments: [party]\n',
    "tools.yaml": """default: { effect: external }
tools:
  TOOL:
    effect: external
    derived:
      writes_victim: { type: Bool, value: 'input.command.contains("victim")' }
""",
    "party.cedar": """@id("coding")
permit (principal in Role::"coder", action in Action::"act", resource == Tool::"TOOL");

@id("no-victim")
@title("The victim is not written")
@severity("high")
forbid (principal, action in Action::"act", resource == Tool::"TOOL")
when { context has writes_victim && context.writes_victim };
""",
}


class Model(http.server.BaseHTTPRequestHandler):
    """Asks for one command, then says that it is done."""

    command = ""
    results = []
    # Runs once before the model asks for the command, so that the hook of the call is the first that it affects.
    before_call = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")

    def reply(self, kind, text):
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply("application/json", '{"models": [], "data": []}')

    def do_POST(self):
        body = self.body()
        if self.path.endswith("/responses"):
            self.answer_codex(body)
        elif "enerateContent" in self.path:
            self.answer_gemini(body)
        else:
            self.reply("application/json", '{"totalTokens": 1}')

    def ask_for_command(self):
        before_call, Model.before_call = Model.before_call, None
        if before_call:
            before_call()
        return Model.command

    def answer_codex(self, body):
        outputs = [item for item in body["input"] if item["type"].endswith("_call_output")]
        if outputs:
            Model.results += [json.dumps(item) for item in outputs]
            item = {"type": "message", "role": "assistant", "id": "m1", "content": [{"type": "output_text", "text": "done"}]}
        else:
            names = [tool.get("name") for tool in body["tools"]]
            name, key = ("exec_command", "cmd") if "exec_command" in names else ("shell_command", "command")
            arguments = json.dumps({key: self.ask_for_command()})
            item = {"type": "function_call", "id": "f1", "call_id": "call_1", "name": name, "arguments": arguments}
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        events = [
            {"type": "response.created", "response": {"id": "r1"}},
            {"type": "response.output_item.done", "item": item},
            {"type": "response.completed", "response": {"id": "r1", "output": [], "usage": usage}},
        ]
        self.reply("text/event-stream", "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events))

    def answer_gemini(self, body):
        parts = [part for content in body["contents"] for part in content["parts"]]
        answered = [part for part in parts if "functionResponse" in part]
        if answered:
            Model.results += [json.dumps(part) for part in answered]
            part = {"text": "done"}
        elif body.get("tools"):
            part = {"functionCall": {"name": "run_shell_command", "args": {"command": self.ask_for_command()}}}
        else:
            part = {"text": "{}"}
        answer = {
            "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
        }
        if "stream" in self.path:
            self.reply("text/event-stream", f"data: {json.dumps(answer)}\n\n")
        else:
            self.reply("application/json", json.dumps(answer))


class Agent:
    def __init__(self, name, modules, folder, model):
        self.name, self.home, self.work = name, folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.environment = {
            "HOME": str(self.home), "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }
        if name == "codex":
            (self.home / ".codex").mkdir()
            (self.home / ".codex/config.toml").write_text(f"""model = "scripted"
model_provider = "scripted"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.scripted]
name = "scripted"
base_url = "{model}/v1"
wire_api = "responses"
""")
            program = modules / ".bin/codex"
            # A person trusts the hooks once with /hooks; here nobody can.
            self.command = [program, "exec", "--skip-git-repo-check", "--dangerously-bypass-hook-trust", "do it"]
        else:
            settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "telemetry": {"enabled": False}}
            (self.home / ".gemini").mkdir()
            (self.home / ".gemini/settings.json").write_text(json.dumps(settings))
            self.environment |= {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": model}
            program = modules / ".bin/gemini"
            self.command = [program, "--yolo", "--skip-trust", "--model", "gemini-2.5-flash", "--prompt", "do it"]

    def run(self, command, before_call=None):
        """Lets the model ask for a command. Returns the result that the agent gave to the model, and its own output."""
        Model.command, Model.results, Model.before_call = command, [], before_call
        done = subprocess.run(
            self.command, cwd=self.work, env=self.environment, stdin=subprocess.DEVNULL, timeout=DEADLINE,
            capture_output=True, text=True, check=False,
        )
        return "\n".join(Model.results), f"{done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def start(command, environment, expected):
    """Starts a process, and waits for a line of its output. Returns the process and the match."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = ""
    for line in process.stdout:
        seen += line
        found = re.search(expected, line)
        if found:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, found
    raise SystemExit(f"{command}: {seen}")


def main():
    name, modules, agentgov = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), str(pathlib.Path(sys.argv[3]).resolve())
    tool = {"codex": "Bash", "gemini-cli": "run_shell_command"}[name]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = f"http://127.0.0.1:{server.server_port}"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        environment = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
        up, _ = start([agentgov, "up"], environment, r"AGENTGOV_PDP")
        started = [up]
        try:
            play(name, tool, modules, agentgov, folder, model, environment, started)
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(DEADLINE)


def play(name, tool, modules, agentgov, folder, model, environment, started):
    run = lambda *args, **more: subprocess.run([agentgov, *args], env=environment, check=True, **more)
    bundle = folder / "bundle"
    bundle.mkdir()
    for file, text in FILES.items():
        (bundle / file).write_text(text.replace("TOOL", tool))
    (folder / "registry.yaml").write_text(REGISTRY)
    run("registry", "push", str(folder / "registry.yaml"))
    run("policy", "check", "--write", str(bundle))
    run("policy", "push", str(bundle))
    token = folder / "token"
    token.write_text(TOKEN)
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (folder / "gateway.yaml").write_text(
        f'listen: 127.0.0.1:0\ncallers:\n  - {{ name: party, token_sha256: "{digest}", tenant: party, '
        f"environment: party, agent: coder }}\n"
    )
    serve = [agentgov, "gateway", "serve", "--config", str(folder / "gateway.yaml")]
    gateway, found = start(serve, environment, r"http://[0-9.:]+")
    started.append(gateway)
    agent = Agent(name, modules, folder, model)
    subprocess.run(
        [agentgov, "hook", "install", name, "--url", found[0], "--token-file", str(token)],
        env=environment | {"HOME": str(agent.home)}, check=True,
    )
    allowed, victim = agent.work / "allowed.txt", agent.work / "victim.txt"

    def expect(what, command, file, runs, reason="", before_call=None):
        result, output = agent.run(command, before_call)
        assert Model.before_call is None, f"{what}: the model was not asked; the agent ended with {output}"
        seen = f"{what}: the model heard {result!r}; the agent ended with {output}"
        assert file.exists() == runs, f"{file.name} must {'' if runs else 'not '}be there; {seen}"
        assert reason in result + output, f"expected {reason!r}; {seen}"
        print(f"{what}: {'ran' if runs else 'did not run'}", flush=True)
        file.unlink(missing_ok=True)

    write = "echo written > "
    # The bundle decides once the stages have it.
    for _ in range(20):
        result, _ = agent.run(write + allowed.name)
        if allowed.exists():
            break
    expect("an allowed command", write + allowed.name, allowed, True)
    expect("a denied command", write + victim.name, victim, False, "The victim is not written")
    def stop():
        gateway.send_signal(signal.SIGSTOP)

    def stop_for_a_while():
        stop()
        threading.Timer(HOOK_SECONDS + 3, gateway.send_signal, [signal.SIGCONT]).start()

    def kill():
        gateway.kill()
        gateway.wait()
        started.remove(gateway)

    command = write + allowed.name
    expect("an allowed command, while the gateway is stopped", command, allowed, False, "agentgov: ", stop)
    gateway.send_signal(signal.SIGCONT)
    expect("an allowed command, while the gateway is slow", command, allowed, False, "agentgov: ", stop_for_a_while)
    gateway.send_signal(signal.SIGCONT)
    expect("an allowed command, once the gateway goes on", command, allowed, True)
    expect("an allowed command, once the gateway is killed", command, allowed, False, "agentgov: ", kill)


if __name__ == "__main__":
    main()
