// The bundle for desktop clients, checked and started by the format's own tools.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';

import { getMcpConfigForManifest, validateManifest } from '@anthropic-ai/mcpb';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

test('bundle', async (t) => {
  const dir = process.env.AGENTLAB_E2E_BUNDLE;
  const file = path.join(dir, 'manifest.json');
  assert.ok(validateManifest(file), 'the manifest is not valid');

  const manifest = JSON.parse(await readFile(file, 'utf8'));
  const start = async (userConfig) => {
    const { command, args } = await getMcpConfigForManifest({ manifest, extensionPath: dir, systemDirs: {}, userConfig, pathSeparator: path.sep });
    const client = new Client({ name: 'bundle', version: '1' });
    await client.connect(new StdioClientTransport({ command, args, env: process.env }));
    t.after(() => client.close());
    return client;
  };
  const sharing = await start({ host_dir: dir });
  assert.ok((await sharing.listTools()).tools.some((tool) => tool.name === 'upload_file'), 'a directory is shared, and there is no upload_file');

  const client = await start({});
  const { tools } = await client.listTools();
  assert.deepEqual(manifest.tools.map((tool) => tool.name).sort(), tools.map((tool) => tool.name).sort());
  const { structuredContent: made } = await client.callTool({ name: 'create_sandbox', arguments: {} });
  const ran = await client.callTool({ name: 'exec', arguments: { sandbox_id: made.sandbox_id, command: 'echo $((6 * 7))' } });
  assert.match(ran.content[0].text, /\b42\b/);
  await client.callTool({ name: 'destroy', arguments: { sandbox_id: made.sandbox_id } });
});
