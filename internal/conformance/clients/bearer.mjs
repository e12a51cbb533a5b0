// Preloaded (node --import) into clients that cannot be told to send a token:
// every HTTP request of theirs to this machine gets the one in BOXLITE_TOKEN,
// whether it is made with fetch or with node:http.
import { subscribe } from "node:diagnostics_channel";

const local = new Set(["localhost", "127.0.0.1", "[::1]"]);
const token = `Bearer ${process.env.BOXLITE_TOKEN}`;

subscribe("undici:request:create", ({ request }) => {
  if (local.has(new URL(request.origin).hostname)) request.addHeader("authorization", token);
});
subscribe("http.client.request.created", ({ request }) => {
  if (local.has(request.host)) request.setHeader("authorization", token);
});
