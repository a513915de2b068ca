// A handler for the tests of the package lope: each message says what to do.
package main

// #cgo CFLAGS: -I${SRCDIR}/../../../plugin-api/include
import "C"

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"lope"
)

type edge struct {
	host       *lope.Host
	seen, took *lope.Metric
	kept       []*lope.Held
	before     *lope.Message
	batch      *lope.Batch
	flushed    error
}

// An error that cannot be told.
type untold struct{}

func (untold) Error() string { panic("in the middle of Error()") }

func newEdge(s *lope.Setup) (lope.Handler, error) {
	var panics bool
	if err := s.OptionTo("panic", &panics); err != nil {
		return nil, err
	}
	if panics {
		panic("in the middle of new()")
	}
	var name string
	var width int16
	for key, to := range map[string]any{"name": &name, "width": &width} {
		if err := s.OptionTo(key, to); err != nil {
			return nil, err
		}
	}
	if name == "wrong" {
		return nil, lope.InvalidConfiguration("a wrong name")
	}
	if name == "untold" {
		return nil, untold{}
	}
	ratio, err := strconv.ParseFloat(name, 64)
	if err != nil {
		ratio = 1.5
	}
	tags := []string{}
	for _, tag := range s.OptionList("tags") {
		tags = append(tags, strconv.Quote(tag))
	}
	e := &edge{host: s.Host()}
	e.host.Info(fmt.Sprintf("made %s,%d,[%s],%g,%s", name, width, strings.Join(tags, ", "), ratio, s.Group()))
	if e.seen, err = s.Counter("seen", "Messages."); err != nil {
		return nil, err
	}
	e.took, err = s.Duration("took", "Time.")
	return e, err
}

func (e *edge) Handle(m *lope.Message) error {
	if err := e.seen.Record(1); err != nil {
		return err
	}
	before := e.before
	e.before = m
	switch body := string(m.BodyView()); body {
	case "ack":
		return nil
	case "retry":
		return lope.Retry("the disk is full")
	case "retry later":
		return lope.RetryAfter(7*time.Second, "later")
	case "reject":
		return fmt.Errorf("it is %w", lope.Reject("not an image"))
	case "error":
		_, err := strconv.Atoi("x")
		return err
	case "panic":
		panic("in the middle of " + body)
	case "panic with a number":
		panic(77)
	case "panic with nothing":
		panic(nil)
	case "untold":
		return untold{}
	case "untold at the flush":
		e.flushed = untold{}
		return nil
	case "batch before":
		e.batch.Set(0, lope.Reject("too late"))
		return nil
	case "panic of the runtime":
		var none *edge
		none.host = e.host
		return nil
	case "message before":
		return lope.Reject(before.RoutingKey())
	case "metric":
		if err := e.took.RecordDuration(2 * time.Millisecond); err != nil {
			return err
		}
		if err := e.seen.Record(-1); err != nil {
			return lope.Reject(err.Error())
		}
		return nil
	case "properties":
		return properties(m)
	case "publish":
		return publish(m)
	case "too long":
		return m.Publish(&lope.Publication{RoutingKey: strings.Repeat("x", 256)})
	case "hold":
		held, err := m.Hold()
		if err != nil {
			return err
		}
		e.kept = append(e.kept, held)
		if _, err := m.Hold(); err == nil {
			return lope.Reject("held twice")
		}
		return nil
	case "hold elsewhere":
		held, err := m.Hold()
		if err != nil {
			return err
		}
		go func() {
			text := strings.ToUpper(string(held.Message().Body()))
			answer := &lope.Publication{RoutingKey: "answers", Body: []byte(text), MayBeUnroutable: true}
			if !held.Settle(held.Message().Publish(answer)) || held.Ack() {
				e.host.Error("not settled")
			}
		}()
		return nil
	case "hold, and panic", "hold, and fail", "hold, and untold":
		held, err := m.Hold()
		if err != nil {
			return err
		}
		e.kept = append(e.kept, held)
		if body == "hold, and panic" {
			panic("after Hold()")
		}
		if body == "hold, and untold" {
			return untold{}
		}
		return lope.Reject("after hold()")
	default:
		file := strings.TrimPrefix(body, "read ")
		if file == body {
			return lope.Reject("unknown: " + body)
		}
		e.host.Info("reading")
		text, err := os.ReadFile(file)
		e.host.Info(string(text))
		return err
	}
}

func properties(m *lope.Message) error {
	number, _ := m.Header("number")
	truth, _ := m.Header("truth")
	table, _ := m.Header("table")
	_, none := m.Header("none")
	second, _, err := m.HeaderAt(1)
	if err != nil {
		return err
	}
	_, _, beyond := m.HeaderAt(9)
	right := m.Queue() == "edge" && m.RoutingKey() == "orders.new" && m.Exchange() == "" && m.Attempt() == 3 &&
		m.Redelivered() && m.Persistent() && m.Timestamp().Unix() == 5 && m.HeaderText("text") == "a" &&
		number == int64(-3) && truth == true && table == lope.Other{} && !none && second == "number" && beyond != nil
	if !right {
		return lope.Reject("not as expected")
	}
	return nil
}

func publish(m *lope.Message) error {
	order := &lope.Publication{
		RoutingKey: "orders",
		Body:       []byte("sent"),
		Transient:  true,
		Delay:      2 * time.Second,
		Priority:   3,
		Due:        time.UnixMilli(1234),
	}
	order.Header("number", -3).Header("natural", uint8(4)).Header("truth", true)
	order.Header("real", 0.5).Header("twice", "a").Header("twice", 2).Header("time", time.Unix(9, 0))
	if err := order.CopyHeaders(m); err != nil {
		return err
	}
	if err := m.Publish(order); err != nil {
		return err
	}
	if err := m.Reply(&lope.Publication{Body: []byte("the answer")}); err != nil {
		return err
	}
	_, err := m.KeepAlive()
	return err
}

func (e *edge) HandleBatch(b *lope.Batch) {
	defer func() { e.batch = b }()
	for i := 0; i < b.Len(); i++ {
		m := b.Message(i)
		switch string(m.BodyView()) {
		case "nothing":
		case "panic":
			panic("in a batch")
		case "hold, and say nothing":
			held, err := m.Hold()
			if err != nil {
				b.Set(i, err)
			}
			e.kept = append(e.kept, held)
		default:
			b.Set(i, e.Handle(m))
		}
	}
}

func (e *edge) Flush(reason lope.FlushReason) error {
	if reason == lope.FlushDrain {
		return lope.Retry("cannot flush")
	}
	for _, held := range e.kept {
		held.Ack()
	}
	e.kept = nil
	return e.flushed
}

func (e *edge) Close() { e.host.Info("dropped") }

func init() { lope.Register(newEdge) }

func main() {}
