require 'bunny'

host, port, queue, prefetch, count = ARGV
connection = Bunny.new(host: host, port: port.to_i)
connection.start
channel = connection.create_channel
channel.prefetch(prefetch.to_i)
seen = 0
channel.queue(queue, no_declare: true).subscribe(manual_ack: true, block: false) do |delivery, _, _|
  channel.ack(delivery.delivery_tag)
  seen += 1
  if seen == count.to_i
    puts 'done'
    $stdout.flush
  end
end
sleep
