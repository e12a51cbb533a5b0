// A client of the TypeScript SDK's second version. It speaks the revision without
// sessions, and falls back where that is not served:
//
//	modern.ts ERA URL
//	modern.ts ERA COMMAND ARGUMENT...    over standard input and output
//
// ERA is what must have been agreed on, modern or legacy.
//
// It lists tools and prompts, calls tools, hears of an error as it should be heard
// of, hears of progress before the answer, cancels, and listens until it is
// acknowledged. BOXLITE_IMAGE is the image of its box.
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import assert from "node:assert/strict";

const [era, server, ...args] = process.argv.slice(2);

function connection() {
  if (!server.startsWith("http:")) return new StdioClientTransport({ command: server, args });
  const url = new URL(server);
  const requestInit = { headers: { authorization: `Bearer ${process.env.BOXLITE_TOKEN}` } };
  return url.pathname === "/sse" ? new SSEClientTransport(url, { requestInit }) : new StreamableHTTPClientTransport(url, { requestInit });
}

const client = new Client({ name: "modern", version: "1" }, { versionNegotiation: { mode: "auto" } });
await client.connect(connection());
assert.equal(client.getProtocolEra(), era);

const { tools } = await client.listTools();
assert.ok(tools.some((t) => t.name === "box_create"), "box_create is listed");
const { prompts } = await client.listPrompts();
assert.ok(prompts.some((p) => p.name === "run_code_safely"), "run_code_safely is listed");
const prompt = await client.getPrompt({ name: "run_code_safely", arguments: { task: "print 42" } });
assert.match(JSON.stringify(prompt.messages), /print 42/);

const list = await client.callTool({ name: "box_list", arguments: {} }); // checked against its schema
assert.deepEqual(list.structuredContent, { boxes: [], total: 0 });
const missing = await client.callTool({ name: "box_get", arguments: { box: "nowhere" } });
assert.equal(missing.isError, true);
await assert.rejects(client.callTool({ name: "no_such_tool", arguments: {} }));

// One of many calls is cancelled; the others are answered.
const cancel = new AbortController();
const calls = Array.from({ length: 20 }, (_, i) =>
  client.callTool({ name: "box_list", arguments: {} }, i === 7 ? { signal: cancel.signal } : {}));
cancel.abort();
const settled = await Promise.allSettled(calls);
assert.deepEqual(settled.flatMap((s, i) => (s.status === "rejected" ? [i] : [])), [7]);

// Of a command that takes its time it hears while that runs, in order and not later.
const facts = (r: { structuredContent?: unknown }) => r.structuredContent as Record<string, any>;
const box = facts(await client.callTool({ name: "box_create", arguments: { image: process.env.BOXLITE_IMAGE, memory_mib: 128 } })).box_id;
const run = (command: string, options = {}) => client.callTool({ name: "box_exec", arguments: { box, command } }, options);
const told: number[] = [];
let answered = false;
const slow = facts(await run("sleep 2; echo done", {
  onprogress: ({ progress }: { progress: number }) => {
    assert.equal(answered, false, "progress after the answer");
    told.push(progress);
  },
}));
answered = true;
assert.equal(slow.stdout.text, "done\n");
assert.ok(told.length > 0 && told.every((p, i) => i === 0 || p > told[i - 1]), `progress: ${told}`);

// Who gives up waiting stops nothing: the command goes on, and another call finds what it did.
const giveUp = new AbortController();
const abandoned = run("sleep 1; echo kept > /tmp/file", { signal: giveUp.signal });
setTimeout(() => giveUp.abort(), 500);
await assert.rejects(abandoned);
const kept = facts(await run("while ! [ -s /tmp/file ]; do sleep 0.1; done; cat /tmp/file"));
assert.equal(kept.stdout.text, "kept\n");
await client.callTool({ name: "box_remove", arguments: { box, force: true } });

if (era === "modern") {
  for (let i = 0; i < 20; i++) {
    const subscription = await client.listen({ toolsListChanged: true }); // rejects without an acknowledgement
    await subscription.close();
  }
}
await client.close();
console.log(`${era}: ${tools.length} tools, ${prompts.length} prompts`);
