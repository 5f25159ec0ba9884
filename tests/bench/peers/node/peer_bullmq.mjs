// BullMQ with 64 jobs at once. Arguments as of the Python peers: ../README.md.
import { Queue, Worker } from 'bullmq';
import { Pool } from 'undici';

const [verb, redisUrl, targetUrl, countText, warmUpText, sizeText, rateText] = process.argv.slice(2);
const [count, warmUp, size, rate] = [countText, warmUpText, sizeText, rateText].map(Number);
const connection = { host: '127.0.0.1', port: Number(new URL(redisUrl).port), maxRetriesPerRequest: null };

function payload() {
  return rate ? { sent_ns: Number(process.hrtime.bigint()) } : { prompt: 'x'.repeat(size) };
}

async function enqueueInBulk(queue) {
  for (let done = 0; done < count; done += 500) {
    const length = Math.min(500, count - done);
    await queue.addBulk(Array.from({ length }, () => ({ name: 'job', data: payload() })));
  }
}

async function enqueueAtRate(queue) {
  const began = performance.now();
  for (let number = 0; number < count; number += 1) {
    const pause = began + (number / rate) * 1e3 - performance.now();
    if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
    await queue.add('job', payload());
  }
}

async function enqueue() {
  const queue = new Queue('peer', { connection });
  await (rate ? enqueueAtRate(queue) : enqueueInBulk(queue));
  await queue.close();
}

function work() {
  const target = targetUrl === '-' ? null : new URL(targetUrl);
  const pool = target && new Pool(target.origin, { connections: 64 });
  const headers = { 'content-type': 'application/json' };
  let done = 0;
  let began = performance.now();
  let cpu = process.cpuUsage();
  const worker = new Worker('peer', async (job) => {
    if (!target) return job.data;
    const response = await pool.request({ path: target.pathname, method: 'POST', body: JSON.stringify(job.data), headers });
    return response.body.json();
  }, { connection, concurrency: 64 });
  worker.on('completed', () => {
    done += 1;
    if (done === warmUp) {
      began = performance.now();
      cpu = process.cpuUsage();
    }
    if (done !== count) return;
    const used = process.cpuUsage(cpu);
    const seconds = (performance.now() - began) / 1e3;
    console.log(JSON.stringify({ seconds, cpu_seconds: (used.user + used.system) / 1e6 }));
    process.exit(0);
  });
}

if (verb === 'enqueue') await enqueue();
else work();
