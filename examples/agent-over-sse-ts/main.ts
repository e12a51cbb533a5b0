// An agent framework's part of the conversation in TypeScript: it connects over
// SSE, creates a box, runs what it is given in it, one command after the other,
// prints what came of it, and removes the box.
//
//	boxlite-mcp token add framework
//	boxlite-mcp serve --listen 127.0.0.1:7777
//	npm install
//	BOXLITE_TOKEN=... node main.ts --image python:3.12 'echo "print(6*7)" > job.py' 'python3 job.py'
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";
import { parseArgs } from "node:util";

// What the tools answer, as far as it is used here.
type Box = { box_id: string; status: string };
type Execution = { exec_id: string; status: string; exit_code?: number; stdout: Stream };
type Stream = { text: string; cut_from?: number; next_offset: number; end: number };

const { values, positionals: commands } = parseArgs({
  allowPositionals: true,
  options: {
    endpoint: { type: "string", default: "http://127.0.0.1:7777/sse" },
    image: { type: "string", default: "python:3.12" },
  },
});
const headers = { Authorization: `Bearer ${process.env.BOXLITE_TOKEN}` };
const client = new Client({ name: "agent-over-sse-ts", version: "1" });
await client.connect(new SSEClientTransport(new URL(values.endpoint), { requestInit: { headers } }));

// call calls a tool and returns its structured result.
async function call<T>(name: string, args: Record<string, unknown>): Promise<T> {
  const result = (await client.callTool({ name, arguments: args })) as CallToolResult;
  if (result.isError) {
    const [first] = result.content;
    throw new Error(first.type === "text" ? first.text : `${name} failed`);
  }
  return result.structuredContent as T;
}

try {
  // An answer comes within 50 seconds. Whatever takes longer goes on, and the same call waits for it.
  let box = await call<Box>("box_create", { image: values.image, ttl_seconds: 3600 });
  try {
    while (box.status !== "running") {
      box = await call<Box>("box_start", { box: box.box_id });
    }
    for (const command of commands) {
      let exec = await call<Execution>("box_exec", { box: box.box_id, command });
      process.stdout.write(exec.stdout.text);
      // Of long output the first answer has the beginning and the end; the rest is read by offset.
      let offset = exec.stdout.cut_from ?? exec.stdout.next_offset;
      while (exec.status === "running" || offset < exec.stdout.end) {
        exec = await call<Execution>("exec_read", { exec_id: exec.exec_id, stdout_offset: offset });
        process.stdout.write(exec.stdout.text);
        offset = exec.stdout.next_offset;
      }
      console.log(`exit code ${exec.exit_code}`);
    }
  } finally {
    await call("box_remove", { box: box.box_id, force: true });
  }
} finally {
  await client.close();
}
