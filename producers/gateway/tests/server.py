"""MCP server of the tests, over stdio. Appends each frame that it receives to the file of its first argument.

Tools that misbehave are named after what they do.
"""

import json
import os
import signal
import sys
import time

SEEN = open(sys.argv[1], "a", encoding="utf-8")
FLAGS = sys.argv[2:]
TOOLS = ["read_file", "write_file", "move_file", "delete_file", "die", "garbage", "endless", "log", "slow", "two_pages"]


def send(message):
    sys.stdout.write(message if isinstance(message, str) else json.dumps(message))
    sys.stdout.write("\n")
    sys.stdout.flush()


def tool(name):
    return {"name": name, "description": "Does \u001b[2Jthings.", "inputSchema": {"type": "object"}}


def call(request):
    name, arguments = request["params"]["name"], request["params"].get("arguments", {})
    if name == "die":
        os._exit(7)
    if name == "garbage":
        send("no JSON \x1b[2J at all")
    if name == "endless":
        while True:
            sys.stdout.write("x" * 65536)
    if name == "log":
        sys.stderr.write("a \x1b[2Jline\r\n" + "y" * 20000 + "\n")
        sys.stderr.flush()
    if name == "slow":
        time.sleep(float(arguments["seconds"]))
    send({"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": name}], "isError": False}})


while "deaf" in FLAGS:
    time.sleep(1)
if "stubborn" in FLAGS:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    SEEN.write(line)
    SEEN.flush()
    message = json.loads(line)
    method = message.get("method")
    if "id" not in message:
        continue
    if method == "initialize":
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "server", "version": "1"},
        }
        send({"jsonrpc": "2.0", "id": message["id"], "result": result})
    elif method == "tools/list":
        page = {"tools": [tool(name) for name in TOOLS[:-1]], "nextCursor": "2"}
        if message.get("params", {}).get("cursor") == "2":
            page = {"tools": [tool(name) for name in TOOLS[-1:]]}
        send({"jsonrpc": "2.0", "id": message["id"], "result": page})
    elif method == "tools/call":
        call(message)
    elif method == "ping":
        send({"jsonrpc": "2.0", "id": message["id"], "result": {}})
while "stubborn" in FLAGS:
    time.sleep(1)
