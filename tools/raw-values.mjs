// Adds the raw values under /v1/kv/KEY to the OpenAPI document. They are hand-written routes, which no annotation of the
// contract can describe: PUT takes any bytes as its body, and GET answers with bytes unless JSON is asked for. Ranges as lines and watches as
// server-sent events are others. A Go package beside the document embeds it, so that nodes serve what was generated.
//
//   node tools/raw-values.mjs gen/openapi/raftkv.swagger.json
import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

const file = process.argv[2];
const document = JSON.parse(readFileSync(file, "utf8"));
const path = document.paths["/v1/kv/{key}"];
const key = path.get.parameters.find((p) => p.name === "key");
const ofWrites = path.delete.parameters.filter((p) => /^(requestId\.|condition\.|prevKv$|idempotencyKey$)/.test(p.name));

const text = { type: "string" };
const number = { type: "string", format: "uint64" };
const who = {
  "Raftkv-Cluster": text, "Raftkv-Node": text, "Raftkv-Shard": number, "Raftkv-Term": number, "Raftkv-Index": number,
  "Raftkv-Revision": number, "Raftkv-Role": text, 
  "Raftkv-Freshness-Ms": { ...text, description: "How old the state may be, in milliseconds; `unknown` if that is not known." },
  "Raftkv-Token": { ...text, description: "What the answer shows or has done, for later reads that must not be behind it." },
};
const version = {
  ETag: { ...text, description: "The mod revision, in quotes." },
  "Raftkv-Mod-Revision": number, "Raftkv-Create-Revision": number, "Raftkv-Version": number,
};

const condition = (name, description) => ({ name, description, in: "header", required: false, type: "string" });
const headersOfWrites = [
  condition("If-Match", "An ETag: writes only if the value is still that one. `*`: only if there is one."),
  condition("If-None-Match", "`*`: writes only if the key does not exist."),
  condition("Idempotency-Key", "1 to 255 visible characters of ASCII: the same write again under the same key gets the first answer; see `idempotencyKey`."),
];
const replayed = { "Idempotency-Replayed": { ...text, description: "`true`: the answer is that of an earlier request under the same idempotency key." } };
const keyReused = {
  description: "Another write stands under the idempotency key. Nothing was done.",
  schema: path.get.responses.default.schema,
};
const preconditionFailed = {
  description: "The condition does not hold, and nothing was done. The detail `PreconditionFailed` has the current mod revision.",
  schema: path.get.responses.default.schema,
  headers: { ETag: { ...version.ETag, description: "The current mod revision, in quotes; missing if the key does not exist." }, "Raftkv-Mod-Revision": number },
};

path.get.parameters.push(
  condition("If-None-Match", "ETags: 304 if the value is one of those."),
  condition("If-Match", "ETags: 412 unless the value is one of those."),
);
path.get.responses["304"] = { description: "The value is one that If-None-Match names.", headers: { ...version, ...who } };
path.delete.parameters.push(...headersOfWrites);
path.get.responses["412"] = path.delete.responses["412"] = preconditionFailed;
path.get.produces = ["application/octet-stream", "application/json"];
path.get.responses["200"].description =
  "The bytes of the value, as application/octet-stream; with `Accept: application/json` the GetResponse.";
path.get.responses["200"].headers = {
  ...version, ...who,
  "Raftkv-Ttl-Remaining-Ms": { ...number, description: "How long the key lives on; missing if it lives for ever or hangs on a lease." },
  "Raftkv-Lease": { ...number, description: "The lease on which the key hangs, if there is one." },
};
path.delete.responses["200"].headers = { ...who, ...replayed };
path.delete.responses["422"] = keyReused;
path.put = {
  summary: "Writes the body, whatever its media type, as the value of a key.",
  operationId: "putRawValue",
  consumes: ["application/octet-stream"],
  responses: {
    200: {
      description: "A successful response.",
      schema: { $ref: "#/definitions/v1PutResponse" },
      headers: { ...version, ...who, ...replayed },
    },
    412: preconditionFailed,
    422: keyReused,
    default: path.get.responses.default,
  },
  parameters: [
    key,
    {
      name: "body",
      description: "The value: any bytes, at most `Limits.value_bytes`; may be empty.",
      in: "body",
      required: true,
      schema: { type: "string", format: "binary" },
    },
    { name: "ttl", description: "How long the key lives, as 500ms, 30s or 1h30m; for ever without it.", in: "query", required: false, type: "string" },
    { name: "lease", description: "The lease on which the key hangs. Not with ttl.", in: "query", required: false, type: "string", format: "uint64" },
    ...ofWrites,
    ...headersOfWrites,
  ],
  tags: path.get.tags,
};

for (const route of ["/v1/kv", "/v1/batch", "/v1/txn"]) {
  const post = document.paths[route].post;
  post.parameters.push(headersOfWrites.find((p) => p.name === "Idempotency-Key"));
  post.responses["200"].headers = replayed;
  post.responses["422"] = keyReused;
}

// Watches as server-sent events are a route written by hand, too. Its parameters are the fields of WatchRequest.
const query = (name, description, type = "string", format) => ({ name, description, in: "query", required: false, type, ...(format && { format }) });
document.paths["/v1/watch"] = {
  get: {
    summary: "Streams changes of keys as server-sent events.",
    operationId: "watchEvents",
    produces: ["text/event-stream"],
    responses: {
      200: {
        description:
          "Events `put` and `delete` with an Event as data; `created`, `progress` and `initial_done` with a WatchResponse; `error` with the status that ends the watch. The id of an event is the token.",
        schema: { type: "string", format: "binary" },
      },
      410: { description: "The history is forgotten. The detail `Compacted` has the oldest revision.", schema: path.get.responses.default.schema },
      default: path.get.responses.default,
    },
    parameters: [
      query("key", "A single key."),
      query("prefix", "All keys that begin with this."),
      query("start", "The first key of a range."),
      query("end", "The key before which the range ends."),
      query("revision", "The revision of the first event; the next one by default. Keys of one shard only.", "string", "uint64"),
      query("initial", "Send the keys as they were before the first event, too.", "boolean"),
      query("prev", "Send what each change has replaced.", "boolean"),
      query("no_puts", "Leave the puts out.", "boolean"),
      query("no_deletes", "Leave the deletes out.", "boolean"),
      query("token", "The id of the last event that was seen."),
      query("progress_interval_ms", "How often to say how far the watch is; 10,000 by default.", "integer", "int64"),
      { name: "shards", description: "Only these shards.", in: "query", required: false, type: "array", items: { type: "integer", format: "int64" }, collectionFormat: "multi" },
      condition("Last-Event-ID", "The id of the last event that was seen. It goes before `token`, `revision` and `initial`."),
    ],
    tags: ["WatchService"],
  },
};

// A range as lines.
const list = document.paths["/v1/kv"].get;
list.produces = ["application/json", "application/x-ndjson"];
list.responses["200"].description =
  "The page; with `Accept: application/x-ndjson` all keys of the range, or as many as `limit` says, each a KeyValue on a line of its own. There is no page token then, and `pageSize` bounds what is read at once. If the range cannot be read to its end, the last line is `{\"error\": …}` and the answer breaks off behind it.";
list.responses["200"].headers = Object.fromEntries(
  Object.entries(who).map(([name, header]) => [name, { ...header, description: `Of lines only: of the first page.${header.description ? " " + header.description : ""}` }]),
);
list.parameters.push(query("pageSize", "Of lines only: how many keys are read at once, at most 10,000.", "integer", "int64"));
for (const { get } of Object.values(document.paths)) {
  if (get && get.responses.default) {
    get.responses["406"] = { description: "`Accept` names none of the forms in which the answer comes.", schema: path.get.responses.default.schema };
  }
}
delete document.paths["/v1/watch"].get.responses["406"]; // it says what it is, whatever is asked for

writeFileSync(file, JSON.stringify(document, null, 2) + "\n");
writeFileSync(
  join(dirname(file), "openapi.go"),
  `// Code generated by tools/raw-values.mjs. DO NOT EDIT.

// Package openapi holds the description of the REST API.
package openapi

import _ "embed"

// Document is the description, OpenAPI 2.0 as JSON.
//
//go:embed ${basename(file)}
var Document []byte
`,
);
