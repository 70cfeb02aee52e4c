// The Inspector's command line: a new client for every call.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { HEADERS, ways } from './scenario.mjs';

const manifest = createRequire(import.meta.url).resolve('@modelcontextprotocol/inspector/package.json');
const CLI = path.join(path.dirname(manifest), 'clients/launcher/build/index.js');

const all = ways({
  stdio: (server) => ({ type: 'stdio', ...server }),
  http: (url) => ({ type: 'http', url, headers: HEADERS }),
  sse: (url) => ({ type: 'sse', url, headers: HEADERS }),
});
for (const [kind, way] of Object.entries(all)) for (const protocolEra of kind === 'sse' ? ['legacy'] : ['legacy', 'modern']) {
  test(`inspector-${protocolEra}-${kind}`, async (t) => {
    const dir = await mkdtemp(path.join(tmpdir(), 'agentlab-e2e-'));
    t.after(() => rm(dir, { recursive: true }));
    const config = path.join(dir, 'inspector.json');
    await writeFile(config, JSON.stringify({ mcpServers: { agentlab: { ...way(), protocolEra } } }));

    const inspect = (...args) => new Promise((resolve) => {
      const argv = [CLI, '--cli', '--config', config, '--server', 'agentlab', '--format', 'json', ...args];
      execFile(process.execPath, argv, (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }));
    });
    const call = async (tool, args) => {
      const ran = await inspect('--method', 'tools/call', '--tool-name', tool, '--tool-args-json', JSON.stringify(args));
      assert.equal(ran.code, 0, `${tool}: ${ran.stderr}${ran.stdout}`);
      const answer = JSON.parse(ran.stdout);
      return answer.result ?? answer;
    };

    if (kind === 'stdio') await t.test('finds nothing wrong with the schemas', async () => {
      const ran = await inspect('--method', 'tools/list', '--strict');
      assert.equal(ran.code, 0, ran.stderr);
      assert.match(ran.stdout, /create_sandbox/);
    });

    await t.test('does the main job', async () => {
      const { sandbox_id } = (await call('create_sandbox', {})).structuredContent;
      const ran = await call('exec', { sandbox_id, command: 'echo $((6 * 7))' });
      assert.match(ran.content[0].text, /\b42\b/);
      assert.equal((await call('destroy', { sandbox_id })).structuredContent.destroyed, true);
    });

    await t.test('sees a refusal as one', async () => {
      const args = JSON.stringify({ sandbox_id: 'sb-aaaaaaaaaaaaaaaaaaaa', command: 'true' });
      const ran = await inspect('--method', 'tools/call', '--tool-name', 'exec', '--tool-args-json', args);
      assert.equal(ran.code, 5, ran.stderr); // its code for isError
      assert.match(ran.stdout, /create_sandbox/);
    });
  });
}
