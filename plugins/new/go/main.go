// A handler to start from: takes one option, and greets whoever the message names.
package main

// #cgo CFLAGS: -I${SRCDIR}/.lope/../../include
import "C"

import "lope"

// One a thread; its calls come one at a time.
type handler struct {
	host     *lope.Host
	greeting string
}

func newHandler(s *lope.Setup) (lope.Handler, error) {
	h := &handler{host: s.Host()}
	return h, s.OptionTo("greeting", &h.greeting)
}

func (h *handler) Handle(m *lope.Message) error {
	name := string(m.Body())
	if name == "" {
		// Nobody will ever be able to handle this one: it is dead-lettered. To have a message come
		// again, return any other error.
		return lope.Reject("an empty body: nobody to greet")
	}
	h.host.Info(h.greeting + ", " + name + "!")
	return nil
}

func init() { lope.Register(newHandler) }

func main() {} // is not run
