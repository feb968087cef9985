"""Runs MCP servers directly and through `agentgov gateway stdio`, and compares the messages that their client sees.

    mcp_party.py all AGENTGOV FOLDER       every server, in every mode; needs a stack on which `prepare` has run
    mcp_party.py run MODE COMMAND…         one session of the client; prints nothing but its outcome
    mcp_party.py tee FILE COMMAND…         runs a command, and appends its messages to FILE
    mcp_party.py server                    an MCP server of 2026-07-28 that asks for input

Messages with and without the gateway may differ in ids, progress tokens, times and `cacheScope` only.
"""

import json
import os
import re
import subprocess
import sys
import threading

HERE = os.path.abspath(__file__)
TENANT, AGENT = "parties", "bot"


def tee(file, command):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    log, lock = open(file, "a", encoding="utf-8"), threading.Lock()

    def copy(name, source, target):
        for line in iter(source.readline, b""):
            with lock:
                log.write(json.dumps([name, line.decode()]) + "\n")
                log.flush()
            target.write(line)
            target.flush()
        target.close()

    threading.Thread(target=copy, args=("client", sys.stdin.buffer, process.stdin), daemon=True).start()
    copy("server", process.stdout, sys.stdout.buffer)
    sys.exit(process.wait())


def server():
    from mcp.server.mcpserver import Context, MCPServer
    from pydantic import BaseModel

    class Answer(BaseModel):
        name: str

    party = MCPServer("party", version="1")

    @party.tool()
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    @party.tool()
    async def count(context: Context) -> str:
        """Reports progress."""
        for step in range(3):
            await context.report_progress(step + 1, 3)
        return "done"

    @party.resource("party://greeting")
    def greeting() -> str:
        """Greets."""
        return "hello"

    @party.prompt()
    def ask(topic: str) -> str:
        """Asks."""
        return f"What of {topic}?"

    party.run("stdio")


async def session(mode, command):
    import mcp_types as types
    from mcp import Client, StdioServerParameters

    async def sampled(_context, _params):
        content = types.TextContent(type="text", text="sampled")
        return types.CreateMessageResult(role="assistant", content=content, model="none")

    async def elicited(_context, _params):
        return types.ElicitResult(action="decline")

    async def roots(_context):
        return types.ListRootsResult(roots=[])

    async def progressed(_progress, _total, _message):
        pass

    parameters = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    client = Client(
        parameters, mode=mode, sampling_callback=sampled, elicitation_callback=elicited, list_roots_callback=roots,
        read_timeout_seconds=60,
    )
    calls = {
        "echo": {"message": "\u00e9 \U0001f600"},
        "get-sum": {"a": 12345678901234567, "b": 1.0},
        "get-tiny-image": {},
        "get-structured-content": {"location": "New York"},
        "trigger-long-running-operation": {"duration": 0.3, "steps": 3},
        "trigger-sampling-request": {"prompt": "p", "maxTokens": 5},
        "trigger-elicitation-request": {},
        "add": {"a": 1, "b": 2},
        "count": {},
        "list_allowed_directories": {},
        "read_text_file": {"path": os.environ.get("PARTY_FILE", "")},
        "directory_tree": {"path": os.path.dirname(os.environ.get("PARTY_FILE", ""))},
    }
    async with client:
        tools = await client.list_tools()
        names = [tool.name for tool in tools.tools]
        for name, arguments in calls.items():
            if name in names:
                await client.call_tool(name, arguments, progress_callback=progressed)
        outcome = {"tools": len(names), "calls": len([name for name in calls if name in names])}
        for kind in ("resources", "prompts"):
            try:
                listed = getattr(await getattr(client, f"list_{kind}")(), kind)
            except Exception as error:
                outcome[kind] = str(error)
                continue
            outcome[kind] = len(listed)
            for item in listed[:2]:
                if kind == "resources":
                    await client.read_resource(str(item.uri))
                elif all(not argument.required for argument in item.arguments or []):
                    await client.get_prompt(item.name, {})
                else:
                    await client.get_prompt(item.name, {argument.name: "x" for argument in item.arguments})
        print(json.dumps(outcome, sort_keys=True))


def normalised(file):
    """Returns the messages of each side, without what may differ, in an order that does not depend on time."""
    messages = []
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            side, text = json.loads(line)
            message = json.loads(text)
            message.pop("id", None)

            def clean(value):
                if isinstance(value, dict):
                    gone = ("progressToken", "requestId", "cacheScope", "requestState")
                    return {key: clean(item) for key, item in value.items() if key not in gone}
                if isinstance(value, list):
                    return [clean(item) for item in value]
                if isinstance(value, str):
                    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d{1,2}:\d\d:\d\d [AP]M", "TIME", value)
                return value

            messages.append(json.dumps([side, clean(message)]))
    return sorted(messages)


def every(agentgov, folder):
    bin_folder = os.path.join(folder, "npm/node_modules/.bin")
    files = os.path.join(folder, "files")
    os.makedirs(files, exist_ok=True)
    os.environ["PARTY_FILE"] = os.path.join(files, "a.txt")
    with open(os.environ["PARTY_FILE"], "w", encoding="utf-8") as file:
        file.write("content \u00e9\n")
    everything = [os.path.join(bin_folder, "mcp-server-everything"), "stdio"]
    filesystem = [os.path.join(bin_folder, "mcp-server-filesystem"), files]
    own = [sys.executable, HERE, "server"]
    parties = [
        ("everything", everything, ("legacy", "auto")),
        ("filesystem", filesystem, ("legacy", "auto")),
        ("party", own, ("legacy", "auto", "2026-07-28")),
    ]
    failed = 0
    for name, command, modes in parties:
        pin = [agentgov, "registry", "pin", name, "--tenant", TENANT, "--reason", "a party", "--accept", "--"]
        subprocess.run(pin + command, check=True, stdout=subprocess.DEVNULL)
        gateway = [agentgov, "gateway", "stdio", "--server", name, "--tenant", TENANT, "--agent", AGENT]
        gateway += ["--environment", "parties", "--spool", os.path.join(folder, "spool"), "--"]
        for mode in modes:
            found = []
            for way, whole in (("direct", command), ("gateway", gateway + command)):
                log = os.path.join(folder, f"{name}-{mode}-{way}.jsonl")
                if os.path.exists(log):
                    os.remove(log)
                run = [sys.executable, HERE, "run", mode, sys.executable, HERE, "tee", log] + whole
                ended = subprocess.run(run, capture_output=True, text=True, timeout=180)
                outcome = ended.stdout.strip() or ended.stderr[-2000:]
                found.append((outcome, normalised(log)))
            (direct, without), (through, within) = found
            missing = [message for message in without if message not in within]
            added = [message for message in within if message not in without]
            is_same = direct == through and not missing and not added and "tools" in direct
            print("same" if is_same else "DIFFERS", name, mode, len(without), "messages", direct)
            if not is_same:
                failed = 1
                print("  through the gateway:", through)
                for kind, messages in (("missing", missing), ("added", added)):
                    for message in messages[:10]:
                        print(" ", kind, message[:600])
    return failed


if __name__ == "__main__":
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "tee":
        tee(rest[0], rest[1:])
    elif what == "server":
        server()
    elif what == "run":
        import asyncio

        asyncio.run(session(rest[0], rest[1:]))
    else:
        sys.exit(every(*rest))
