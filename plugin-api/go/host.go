package lope

// #cgo CFLAGS: -I${SRCDIR}/../include -I${SRCDIR}/../../../include
// #include "calls.h"
import "C"

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"sync"
	"time"
	"unsafe"
)

// Host is the daemon, for any goroutine. One that outlives its handler does nothing.
type Host struct {
	raw *C.lope_host
	// The table is valid until the handler has ended, which waits for who is in a call.
	ended  sync.RWMutex
	isOver bool
}

// Runs f unless the handler has ended.
func (h *Host) call(f func()) bool {
	h.ended.RLock()
	defer h.ended.RUnlock()
	if h.isOver {
		return false
	}
	f()
	return true
}

func (h *Host) order(f func() C.lope_status) Status {
	status := Stopping
	h.call(func() { status = Status(f()) })
	return status
}

func (h *Host) end() {
	h.ended.Lock()
	h.isOver = true
	h.ended.Unlock()
}

// Log writes one line to the daemon's log.
func (h *Host) Log(level Level, text string) {
	h.call(func() { C.lope_go_log(h.raw, C.int32_t(level), text) })
}

// Debug writes a line for who looks for a fault.
func (h *Host) Debug(text string) { h.Log(Debug, text) }

// Info writes a line that says what happens.
func (h *Host) Info(text string) { h.Log(Info, text) }

// Warn writes a line that says what went wrong.
func (h *Host) Warn(text string) { h.Log(Warn, text) }

// Error writes a line that says what was given up.
func (h *Host) Error(text string) { h.Log(Error, text) }

// LogEnabled says whether a line of that level would be written: spares making its text.
func (h *Host) LogEnabled(level Level) bool {
	enabled := false
	h.call(func() { enabled = C.lope_go_log_enabled(h.raw, C.int32_t(level)) != 0 })
	return enabled
}

// Stopping says whether the daemon is draining: finish soon.
func (h *Host) Stopping() bool {
	stopping := true
	h.call(func() { stopping = C.lope_go_stopping(h.raw) != 0 })
	return stopping
}

// Metric is one metric of the handler, for any goroutine.
type Metric struct {
	host *Host
	id   C.uint32_t
}

// Record adds to a counter, sets a gauge.
func (m *Metric) Record(value int64) error {
	return check("metric_record", m.host.order(func() C.lope_status {
		return C.lope_go_metric_record(m.host.raw, m.id, C.int64_t(value))
	}))
}

// RecordDuration is for a duration.
func (m *Metric) RecordDuration(value time.Duration) error { return m.Record(value.Nanoseconds()) }

// Setup is what a handler is made from. Not to be kept.
type Setup struct {
	host *Host
}

// Host is the daemon, to be kept.
func (s *Setup) Host() *Host { return s.host }

// Group is its name in the configuration.
func (s *Setup) Group() string { return goString(s.host.raw.group) }

// WorkerIndex counts from 0; a replacement of a worker gets its predecessor's.
func (s *Setup) WorkerIndex() int { return int(s.host.raw.worker_index) }

// ThreadIndex counts from 0 within the worker.
func (s *Setup) ThreadIndex() int { return int(s.host.raw.thread_index) }

// Option is one option as text; the default of the table stands in for a key that is not configured.
// Nested keys are joined with '.'.
func (s *Setup) Option(key string) (value string, there bool) {
	var text C.lope_str
	if C.lope_go_option(s.host.raw, key, &text) != C.LOPE_OK {
		return "", false
	}
	return goString(text), true
}

// OptionTo reads one option into a *string, a *bool, or a pointer to an integer or floating-point number.
// The error is one of InvalidConfiguration.
func (s *Setup) OptionTo(key string, to any) error {
	text, there := s.Option(key)
	if !there {
		return InvalidConfiguration(fmt.Sprintf("option '%s': expected a value, found none", key))
	}
	value := reflect.ValueOf(to).Elem()
	expected := ""
	switch value.Kind() {
	case reflect.String:
		value.SetString(text)
	case reflect.Bool:
		expected = setBool(value, text)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := value.Type().Bits()
		number, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			largest := int64(math.MaxInt64) >> (64 - bits)
			expected = fmt.Sprintf("an integer from %d to %d", -largest-1, largest)
		}
		value.SetInt(number)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := value.Type().Bits()
		number, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			expected = fmt.Sprintf("an integer from 0 to %d", uint64(math.MaxUint64)>>(64-bits))
		}
		value.SetUint(number)
	case reflect.Float32, reflect.Float64:
		number, err := strconv.ParseFloat(text, value.Type().Bits())
		if err != nil {
			expected = "a number"
		}
		value.SetFloat(number)
	default:
		panic("lope.Setup.OptionTo: a " + value.Kind().String() + " is no option")
	}
	if expected == "" {
		return nil
	}
	found := "'" + text + "'"
	if isSecret(key) {
		found = "something else"
	}
	return InvalidConfiguration(fmt.Sprintf("option '%s': expected %s, found %s", key, expected, found))
}

func setBool(value reflect.Value, text string) (expected string) {
	switch text {
	case "true", "True", "TRUE", "yes", "on":
		value.SetBool(true)
	case "false", "False", "FALSE", "no", "off":
		value.SetBool(false)
	default:
		return "true or false"
	}
	return ""
}

// OptionList is the texts of a list, in its order; declared with ".*" behind its name. Empty if there is
// none.
func (s *Setup) OptionList(key string) []string {
	var list []string
	for {
		text, there := s.Option(key + "." + strconv.Itoa(len(list)))
		if !there {
			return list
		}
		list = append(list, text)
	}
}

// OptionsJSON is the whole `options:` map as JSON, without defaults.
func (s *Setup) OptionsJSON() string { return goString(C.lope_go_options_json(s.host.raw)) }

// Counter makes a metric that only grows.
func (s *Setup) Counter(name, help string) (*Metric, error) {
	return s.metric(C.LOPE_COUNTER, name, help)
}

// Gauge makes a metric that is what was recorded last.
func (s *Setup) Gauge(name, help string) (*Metric, error) { return s.metric(C.LOPE_GAUGE, name, help) }

// Duration makes a histogram.
func (s *Setup) Duration(name, help string) (*Metric, error) {
	return s.metric(C.LOPE_DURATION, name, help)
}

func (s *Setup) metric(kind C.int32_t, name, help string) (*Metric, error) {
	metric := &Metric{host: s.host}
	status := C.lope_go_metric_register(s.host.raw, kind, name, help, &metric.id)
	return metric, check("metric_register", Status(status))
}

func check(what string, status Status) error {
	if status == C.LOPE_OK {
		return nil
	}
	return &HostError{status, what}
}

func goString(text C.lope_str) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(text.data)), int(text.size)))
}
