// One conversation over WebSocket with a client library that knows nothing of MCP.
//
// Usage: node websocket_client.mjs ws|builtin URL [token] < JSON array of messages. Sends them one after the other, each after
// the answer to the one before, and prints {"protocol", "answers", "code"} when the server has answered the goodbye.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [, , kind, url, token] = process.argv;
const messages = JSON.parse(readFileSync(0, "utf8"));
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const require = createRequire(`${process.env.PEERS_NODE}/`);
const socket = kind === "ws" ? new (require("ws"))(url, ["mcp"], { headers }) : new WebSocket(url, ["mcp"]);
const answers = [];

function next() {
  const message = messages.shift();
  if (message === undefined) {
    socket.close(1000, "done");
    return;
  }
  socket.send(JSON.stringify(message));
  if (message.id === undefined) next();
}

socket.addEventListener("open", next);
socket.addEventListener("message", (event) => {
  const message = JSON.parse(event.data);
  if (message.id === undefined) return;
  answers.push(message);
  next();
});
socket.addEventListener("error", (event) => {
  console.error(event.message ?? "failed");
  process.exitCode = 1;
});
socket.addEventListener("close", (event) => {
  console.log(JSON.stringify({ protocol: socket.protocol, answers, code: event.code }));
});
