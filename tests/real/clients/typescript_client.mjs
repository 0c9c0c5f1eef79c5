// Driver for the official TypeScript clients: --sdk 1 (@modelcontextprotocol/sdk) or --sdk 2 (@modelcontextprotocol/client).
// Carries out the same plans as plan.py (see there) and prints one JSON report. PEERS_NODE names the folder of node_modules.

import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

const STEP_TIMEOUT = 30_000; // milliseconds
const ELICITED = { name: 'Ada', response: 'forty-two', ok: true, color: 'teal', context: 'tests' };
const require = createRequire(process.env.PEERS_NODE + '/');
const { values: options } = parseArgs({
  options: {
    url: { type: 'string' },
    command: { type: 'string' },
    mode: { type: 'string', default: 'legacy' },
    sdk: { type: 'string', default: '2' },
    sse: { type: 'boolean', default: false },
    plain: { type: 'boolean', default: false }
  }
});
const steps = JSON.parse(readFileSync(0, 'utf8'));
const events = [];
const questions = [];
const waiting = [];

function note(method, params) {
  events.push({ method, params });
  for (const check of [...waiting]) check();
}

function waitFor(method, count) {
  return new Promise((resolve) => {
    const check = () => {
      if (events.filter((event) => event.method === method).length < count) return;
      waiting.splice(waiting.indexOf(check), 1);
      resolve({ seen: count });
    };
    waiting.push(check);
    check();
  });
}

function answer(method, params) {
  questions.push({ method, params });
  if (method === 'sampling/createMessage') {
    return { role: 'assistant', content: { type: 'text', text: "the model's answer" }, model: 'test-model' };
  }
  if (method === 'roots/list') return { roots: [{ uri: 'file:///tmp/root-of-the-client', name: 'root' }] };
  const wanted = params.requestedSchema?.properties ?? {};
  return { action: 'accept', content: Object.fromEntries(Object.entries(ELICITED).filter(([name]) => name in wanted)) };
}

const capabilities = options.plain ? {} : { sampling: {}, elicitation: {}, roots: {} };
const info = { name: 'typescript-driver', version: '1.0.0' };

function makeClient() {
  if (options.sdk === '1') {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const types = require('@modelcontextprotocol/sdk/types.js');
    const client = new Client(info, { capabilities });
    if (!options.plain) {
      client.setRequestHandler(types.CreateMessageRequestSchema, (r) => answer(r.method, r.params));
      client.setRequestHandler(types.ElicitRequestSchema, (r) => answer(r.method, r.params));
      client.setRequestHandler(types.ListRootsRequestSchema, (r) => answer(r.method, r.params ?? {}));
    }
    return client;
  }
  const { Client } = require('@modelcontextprotocol/client');
  const mode = ['legacy', 'auto'].includes(options.mode) ? options.mode : { pin: options.mode };
  const client = new Client(info, { capabilities, versionNegotiation: { mode } });
  if (!options.plain) {
    for (const method of ['sampling/createMessage', 'elicitation/create', 'roots/list']) {
      client.setRequestHandler(method, (r) => answer(r.method, r.params ?? {}));
    }
  }
  return client;
}

function makeTransport() {
  const v1 = options.sdk === '1';
  if (options.sse) {
    const { SSEClientTransport } = require('@modelcontextprotocol/sdk/client/sse.js');
    return new SSEClientTransport(new URL(options.url));
  }
  if (options.url) {
    const { StreamableHTTPClientTransport } = require(
      v1 ? '@modelcontextprotocol/sdk/client/streamableHttp.js' : '@modelcontextprotocol/client'
    );
    return new StreamableHTTPClientTransport(new URL(options.url));
  }
  const { StdioClientTransport } = require(v1 ? '@modelcontextprotocol/sdk/client/stdio.js' : '@modelcontextprotocol/client/stdio');
  const [command, ...args] = JSON.parse(options.command);
  return new StdioClientTransport({ command, args });
}

async function listed(client, kind) {
  const verbs = {
    tools: (p) => client.listTools(p),
    prompts: (p) => client.listPrompts(p),
    resources: (p) => client.listResources(p),
    templates: (p) => client.listResourceTemplates(p)
  };
  const items = [];
  let cursor;
  for (let page = 1; page <= 50; page++) {
    const result = await verbs[kind](cursor === undefined ? undefined : { cursor });
    items.push(...result[kind === 'templates' ? 'resourceTemplates' : kind]);
    cursor = result.nextCursor;
    if (cursor === undefined) return { items, pages: page };
  }
  throw new Error(`${kind}: more than 50 pages`);
}

function call(client, params, requestOptions = {}) {
  const bounded = { timeout: STEP_TIMEOUT, ...requestOptions };
  return options.sdk === '1' ? client.callTool(params, undefined, bounded) : client.callTool(params, bounded);
}

async function cancelledCall(client, step) {
  const aborter = new AbortController();
  let begun = false;
  const params = { name: step.name, arguments: step.arguments ?? {} };
  try {
    await call(client, params, { signal: aborter.signal, onprogress: () => { begun = true; aborter.abort('test'); } });
  } catch (error) {
    if (begun) return {};
    throw error;
  }
  throw new Error('answered before it was cancelled');
}

async function perform(client, step) {
  switch (step.do) {
    case 'list': return listed(client, step.kind);
    case 'call': {
      const progress = [];
      const params = { name: step.name, arguments: step.arguments ?? {} };
      const result = await call(client, params, step.progress ? { onprogress: (p) => progress.push(p) } : {});
      return step.progress ? { ...result, progress } : result;
    }
    case 'calls': return Promise.all(step.arguments.map((a) => call(client, { name: step.name, arguments: a })));
    case 'cancel': return cancelledCall(client, step);
    case 'prompt': return client.getPrompt({ name: step.name, arguments: step.arguments ?? {} });
    case 'read': return client.readResource({ uri: step.uri });
    case 'complete': return client.complete({ ref: step.ref, argument: step.argument });
    case 'level': return client.setLoggingLevel(step.level);
    case 'subscribe': return client.subscribeResource({ uri: step.uri });
    case 'listen': {
      if (options.sdk === '1' || options.mode === 'legacy') return {};
      const wanted = Object.fromEntries(
        Object.entries(step.filter).map(([name, value]) => [name.replace(/_(.)/g, (_, c) => c.toUpperCase()), value])
      );
      await client.listen(wanted);
      return {};
    }
    case 'ping': return client.ping();
    case 'await': return waitFor(step.event, step.count ?? 1);
    default: throw new Error(`no such step: ${step.do}`);
  }
}

function bounded(promise, milliseconds) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function main() {
  const client = makeClient();
  client.fallbackNotificationHandler = async (n) => note(n.method, n.params);
  if (options.sdk !== '1') {
    for (const kind of ['tools', 'prompts', 'resources']) {
      const method = `notifications/${kind}/list_changed`;
      client.setNotificationHandler(method, (n) => note(n.method, n.params));
    }
    for (const method of ['notifications/message', 'notifications/resources/updated']) {
      client.setNotificationHandler(method, (n) => note(n.method, n.params));
    }
  }
  await bounded(client.connect(makeTransport()), STEP_TIMEOUT);
  const entries = [];
  for (const step of steps) {
    try {
      entries.push({ ok: await bounded(perform(client, step), (step.timeout ?? STEP_TIMEOUT / 1000) * 1000) });
    } catch (error) {
      entries.push({ error: { code: error.code ?? null, message: String(error.message ?? error), data: error.data ?? null } });
    }
  }
  const report = {
    protocol: client.getNegotiatedProtocolVersion?.() ?? client.transport?.protocolVersion ?? null,
    server: client.getServerVersion() ?? null,
    capabilities: client.getServerCapabilities() ?? null,
    instructions: client.getInstructions() ?? null,
    steps: entries, events, questions
  };
  await bounded(client.close(), 10_000).catch(() => {});
  return report;
}

let report;
try {
  report = await main();
} catch (error) {
  report = { failed: String(error?.stack ?? error) };
}
// A plain exit would cut a long report in the pipe.
process.stdout.write(JSON.stringify(report) + '\n', () => process.exit('failed' in report ? 1 : 0));
