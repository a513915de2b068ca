package main

import (
	"fmt"
	"log"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	host, port, queue := os.Args[1], os.Args[2], os.Args[3]
	prefetch, _ := strconv.Atoi(os.Args[4])
	count, _ := strconv.Atoi(os.Args[5])
	connection, err := amqp.Dial("amqp://guest:guest@" + host + ":" + port + "/")
	if err != nil {
		log.Fatal(err)
	}
	channel, err := connection.Channel()
	if err != nil {
		log.Fatal(err)
	}
	if err := channel.Qos(prefetch, 0, false); err != nil {
		log.Fatal(err)
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		log.Fatal(err)
	}
	seen := 0
	for delivery := range deliveries {
		if err := delivery.Ack(false); err != nil {
			log.Fatal(err)
		}
		if seen++; seen == count {
			fmt.Println("done")
		}
	}
}
