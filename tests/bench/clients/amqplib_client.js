const amqp = require('amqplib');
const [host, port, queue, prefetch, count] = process.argv.slice(2);

async function main() {
  const connection = await amqp.connect(`amqp://guest:guest@${host}:${port}`);
  const channel = await connection.createChannel();
  await channel.prefetch(Number(prefetch));
  let seen = 0;
  await channel.consume(queue, (message) => {
    channel.ack(message);
    if (++seen === Number(count)) console.log('done');
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
