// The work on amqp091-go. The arguments are those of every program: KIND SIZE MESSAGES QUEUE, with
// AMQP_URL. Prints the nanoseconds that it took: elapsed time and CPU time.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	window   = 1000
	exchange = "amq.fanout"
)

func must(err error) {
	if err != nil {
		log.Fatal("amqp091-go: ", err)
	}
}

func cpu() time.Duration {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func publishOne(channel *amqp.Channel, body []byte) {
	message := amqp.Publishing{Body: body}
	must(channel.PublishWithContext(context.Background(), exchange, "", false, false, message))
}

func publish(channel *amqp.Channel, messages int, body []byte) {
	for ; messages > 0; messages-- {
		publishOne(channel, body)
	}
	must(channel.Qos(0, 0, false))
}

// Waits for confirms with NotifyPublish, because version 1.5 loses fast confirms of a
// DeferredConfirmation.
func confirm(channel *amqp.Channel, messages int, body []byte) {
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, window))
	check := func() {
		if confirm, ok := <-confirms; !ok || !confirm.Ack {
			log.Fatal("amqp091-go: a publish was refused")
		}
	}
	for n := 0; n < messages; n++ {
		if n >= window {
			check()
		}
		publishOne(channel, body)
	}
	for n := 0; n < window && n < messages; n++ {
		check()
	}
}

func consume(channel *amqp.Channel, messages, size int, queue string, acks bool) {
	if acks {
		must(channel.Qos(window, 0, false))
	}
	deliveries, err := channel.Consume(queue, "tag", !acks, false, false, false, nil)
	must(err)
	for ; messages > 0; messages-- {
		delivery, ok := <-deliveries
		if !ok || len(delivery.Body) != size {
			log.Fatal("amqp091-go: a delivery is incomplete")
		}
		if acks {
			must(delivery.Ack(false))
		}
	}
	if acks {
		must(channel.Cancel("tag", false))
	}
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: AMQP_URL=... amqp091-go KIND SIZE MESSAGES QUEUE")
	}
	kind, queue := os.Args[1], os.Args[4]
	size, err := strconv.Atoi(os.Args[2])
	must(err)
	messages, err := strconv.Atoi(os.Args[3])
	must(err)
	body := bytes.Repeat([]byte{'x'}, size)

	conn, err := amqp.Dial(os.Getenv("AMQP_URL"))
	must(err)
	channel, err := conn.Channel()
	must(err)
	if kind == "confirm" {
		must(channel.Confirm(false))
	}
	start, used := time.Now(), cpu()
	switch kind {
	case "publish":
		publish(channel, messages, body)
	case "confirm":
		confirm(channel, messages, body)
	default:
		consume(channel, messages, size, queue, kind == "ack")
	}
	took := time.Since(start)
	fmt.Println(took.Nanoseconds(), (cpu() - used).Nanoseconds())
}
