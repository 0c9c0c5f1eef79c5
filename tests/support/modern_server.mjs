// A modern-only MCP server on the official TypeScript SDK 2.x, over HTTP: legacy requests are refused (legacy: 'reject').
// Prints one JSON line {"port": N}. PEERS_NODE names the folder of node_modules.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';

const require = createRequire(process.env.PEERS_NODE + '/');
const { McpServer, acceptedContent, createMcpHandler, inputRequired, inputResponse } = require('@modelcontextprotocol/server');

const NAME = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };

function factory() {
  const server = new McpServer({ name: 'modern-only-typescript', version: '1.0.0' }, { capabilities: { tools: {} } });
  server.registerTool('greet', { description: 'asks for a name, then who is greeted how' }, async (ctx) => {
    const answers = ctx.mcpReq.inputResponses;
    const given = acceptedContent(answers, 'who')?.name ?? ctx.mcpReq.requestState();
    if (!given) {
      return inputRequired({ inputRequests: { who: inputRequired.elicit({ message: 'Your name?', requestedSchema: NAME }) } });
    }
    const model = inputResponse(answers, 'words');
    if (model.kind === 'missing') {
      const messages = [{ role: 'user', content: { type: 'text', text: `Greet ${given}` } }];
      return inputRequired({
        inputRequests: {
          words: inputRequired.createMessage({ messages, maxTokens: 10 }),
          roots: inputRequired.listRoots()
        },
        requestState: given
      });
    }
    const roots = answers.roots.roots.length;
    return { content: [{ type: 'text', text: `${given}: ${answers.words.content.text} (${roots})` }] };
  });
  return server;
}

const handler = createMcpHandler(factory, { legacy: 'reject' });

const listener = createServer(async (incoming, outgoing) => {
  const body = incoming.method === 'POST' ? Readable.toWeb(incoming) : undefined;
  const request = new Request(`http://${incoming.headers.host}${incoming.url}`, {
    method: incoming.method,
    headers: incoming.headers,
    body,
    duplex: 'half'
  });
  const response = await handler.fetch(request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (response.body) Readable.fromWeb(response.body).pipe(outgoing);
  else outgoing.end();
});
listener.listen(0, 'localhost', () => console.log(JSON.stringify({ port: listener.address().port })));
