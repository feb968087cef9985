"""The desk example with PyPI's MCP client and npm's server for files: `tests/parties/run desk`.

Its argument is the executable. Starts the stack with `agentgov demo --desk --keep`, which runs the scripted agent first.
"""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from mcp import Client, StdioServerParameters

AGENTGOV = os.path.abspath(sys.argv[1])
PACKAGE = "@modelcontextprotocol/server-filesystem@2026.8.31"
SERVER = ["npx", "--yes", "--package", PACKAGE, "--", "mcp-server-filesystem"]
OF = ["--server", "files", "--tenant", "desk", "--agent", "desk-bot"]
DECISION = "org.agentgov/decision"
BEFORE, AFTER = "before\n", "after\n"


def run(*arguments):
    return subprocess.run([AGENTGOV, *arguments], capture_output=True, text=True, timeout=120)


def approve(approval, key):
    """The request is listed a second after it was made."""
    until = time.monotonic() + 60
    while True:
        done = run("approvals", "approve", approval, "--reason", "a test", "--key", key)
        if done.returncode == 0:
            return
        assert "found none" in done.stderr and time.monotonic() < until, done.stderr
        time.sleep(0.2)


def held(result, outcome, policy):
    decision = result.meta[DECISION]
    text = result.content[0].text
    assert result.is_error and decision["outcome"] == outcome, result
    assert [found["id"] for found in decision["policies"]] == ([policy] if policy else []), result
    if policy == "read-before-write":
        assert "only after this session has read it" in text and "Call read_text_file" in text, text
    if outcome == "ask":
        approval = decision["access_request"]["evaluation_id"]
        assert approval in text, text
        return approval
    return None


async def use(mode, folder, key):
    plan, moved = folder / "plan.txt", folder / "done.txt"
    plan.write_text(BEFORE)
    command = ["gateway", "stdio", *OF, "--approval-wait", "2", "--", *SERVER, str(folder)]
    server = StdioServerParameters(command=AGENTGOV, args=command, env=dict(os.environ))
    async with Client(server, mode=mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"read_text_file", "write_file", "move_file"} <= names and "create_directory" not in names, names
        write = {"path": str(plan), "content": AFTER}
        held(await client.call_tool("write_file", write), "deny", "read-before-write")
        assert plan.read_text() == BEFORE
        read = await client.call_tool("read_text_file", {"path": str(plan)})
        assert not read.is_error and read.content[0].text == BEFORE, read
        written = await client.call_tool("write_file", write)
        assert not written.is_error and plan.read_text() == AFTER, written
        held(await client.call_tool("create_directory", {"path": str(folder / "new")}), "deny", None)
        assert not (folder / "new").exists()
        move = {"source": str(plan), "destination": str(moved)}
        first = held(await client.call_tool("move_file", move), "ask", "moving-asks")
        assert plan.exists()
        await asyncio.to_thread(approve, first, key)
        done = await client.call_tool("move_file", move)
        assert not done.is_error and moved.read_text() == AFTER and not plan.exists(), done
        moved.rename(plan)
        second = held(await client.call_tool("move_file", move), "ask", "moving-asks")
        assert second != first and plan.exists() and not moved.exists()
    print(f"mode {mode}: the gateway held what it must, and passed the rest", flush=True)


def main():
    with tempfile.TemporaryDirectory() as state:
        # The commands find this stack, and no other.
        os.environ["XDG_STATE_HOME"] = state
        for name in list(os.environ):
            if name.startswith("AGENTGOV_"):
                del os.environ[name]
        demo = subprocess.Popen([AGENTGOV, "demo", "--desk", "--keep", "--json"], stdout=subprocess.PIPE, text=True)
        try:
            text = ""
            while True:
                line = demo.stdout.readline()
                assert line, f"the demo ended: {demo.wait()}"
                if text.endswith("}\n") and '"pdp"' in line:
                    break
                text += line
            report = json.loads(text)
            assert report["faults"] == [] and report["server"] == PACKAGE, report
            key = os.path.join(state, "grace.jwk")
            made = run("registry", "key", "new", "--kind", "approver", "--name", "grace", "--out", key)
            assert made.returncode == 0, made.stderr
            for mode in ("auto", "legacy"):
                with tempfile.TemporaryDirectory() as folder:
                    asyncio.run(use(mode, pathlib.Path(folder).resolve(), key))
        finally:
            demo.terminate()
            demo.wait(60)


main()
