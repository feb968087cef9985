"""MCP server for files of the tests, over stdio: the tools of npm's server that the desk example governs, in few lines.

Its argument is the folder that it serves. Paths are absolute.
"""

import json
import os
import shutil
import sys

FOLDER = os.path.realpath(sys.argv[1])
TEXT = {"type": "string"}
TOOLS = {
    "read_text_file": {"path": TEXT},
    "write_file": {"path": TEXT, "content": TEXT},
    "create_directory": {"path": TEXT},
    "move_file": {"source": TEXT, "destination": TEXT},
}


def inside(path):
    real = os.path.realpath(path)
    if os.path.commonpath([FOLDER, real]) != FOLDER:
        raise ValueError("expected a path in the folder")
    return real


def run(name, arguments):
    if name == "read_text_file":
        with open(inside(arguments["path"]), encoding="utf-8") as file:
            return file.read()
    if name == "write_file":
        with open(inside(arguments["path"]), "w", encoding="utf-8") as file:
            file.write(arguments["content"])
        return "written"
    if name == "create_directory":
        os.makedirs(inside(arguments["path"]))
        return "created"
    if name == "move_file":
        shutil.move(inside(arguments["source"]), inside(arguments["destination"]))
        return "moved"
    raise ValueError("expected a known tool")


def call(params):
    try:
        text, is_error = run(params["name"], params.get("arguments", {})), False
    except (OSError, ValueError, KeyError) as error:
        text, is_error = str(error), True
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


def answer(message):
    method = message["method"]
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        info = {"name": "desk-server", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {
            "tools": [
                {"name": name, "description": name, "inputSchema": {"type": "object", "properties": properties}}
                for name, properties in TOOLS.items()
            ]
        }
    return call(message["params"]) if method == "tools/call" else {}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer(message)}), flush=True)
