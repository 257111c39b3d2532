package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"cowl/internal/errs"
	"cowl/internal/format/vgtext"
	"cowl/internal/manager"
)

// control answers requests for one group.
type control struct {
	group manager.Group
	name  string
	pid   int
	log   *slog.Logger
	// locate fills in where clients find a volume.
	locate func(name string, st *manager.LVStatus)
	// changed is told when a request may have changed which volumes there are.
	changed func()

	// gate is held shared while a request runs, and alone by a request after
	// which the daemon may end and by whoever ends it: nothing can slip in
	// between "no volume is active" and the end.
	gate     sync.RWMutex
	stopping bool          // guarded by gate
	stop     chan struct{} // closed when stopping becomes true

	// closed is closed when the group is, after closeErr was set.
	closed   chan struct{}
	closeErr error

	holds holds
}

func newControl(group manager.Group, name string, log *slog.Logger) *control {
	return &control{
		group: group, name: name, pid: os.Getpid(), log: log,
		locate:  func(string, *manager.LVStatus) {},
		changed: func() {},
		stop:    make(chan struct{}), closed: make(chan struct{}),
	}
}

// end refuses further requests, once those that run have been answered.
func (c *control) end() {
	c.gate.Lock()
	defer c.gate.Unlock()
	c.endLocked()
}

func (c *control) endLocked() {
	if !c.stopping {
		c.stopping = true
		close(c.stop)
	}
}

// groupClosed lets the requests that ended the daemon be answered.
func (c *control) groupClosed(err error) {
	c.closeErr = err
	close(c.closed)
}

func (c *control) errStopping() error {
	return errs.WithHint(errs.E(errs.Busy, "the daemon of volume group %s (pid %d) is ending", c.name, c.pid),
		"try again in a moment")
}

// server returns the HTTP server of the control socket.
func (c *control) server() *http.Server {
	g := c.group
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(hello{Protocol: protocol, PID: c.pid, Group: c.name})
	})
	handle(c, mux, "status", func(ctx context.Context, _ emptyRequest) reply {
		return c.status(ctx)
	})
	handle(c, mux, "writes", func(ctx context.Context, r writesRequest) reply {
		p, err := g.Writes(ctx, r.Name)
		return reply{Writes: p, Error: encodeError(err)}
	})
	handle(c, mux, "changed", func(ctx context.Context, r changedRequest) reply {
		changes, err := g.Changed(ctx, r.Snapshot)
		return reply{Changes: changes, Error: encodeError(err)}
	})
	handle(c, mux, "create-lv", result(func(ctx context.Context, r createLVRequest) (*manager.Result, error) {
		return g.CreateLV(ctx, r.Spec)
	}))
	handle(c, mux, "create-snapshots", result(func(ctx context.Context, r createSnapshotsRequest) (*manager.Result, error) {
		if r.Hold != nil {
			return c.holds.create(ctx, g, r.Specs, *r.Hold)
		}
		return g.CreateSnapshots(ctx, r.Specs)
	}))
	handleBeside(c, mux, "wait-held", func(ctx context.Context, r holdRequest) error { return c.holds.wait(ctx, r.ID) })
	handleBeside(c, mux, "let-go", func(_ context.Context, r holdRequest) error { return c.holds.letGo(r) })
	handle(c, mux, "extend-lv", result(func(ctx context.Context, r extendLVRequest) (*manager.Result, error) {
		return g.ExtendLV(ctx, r.Spec)
	}))
	handle(c, mux, "set-read-only", result(func(ctx context.Context, r setReadOnlyRequest) (*manager.Result, error) {
		return g.SetReadOnly(ctx, r.Name, r.ReadOnly)
	}))
	handle(c, mux, "change-tags", result(func(ctx context.Context, r changeTagsRequest) (*manager.Result, error) {
		return g.ChangeTags(ctx, r.Name, r.Add, r.Remove)
	}))
	handle(c, mux, "activate", result(func(ctx context.Context, r namesRequest) (*manager.Result, error) {
		return g.Activate(ctx, r.Names...)
	}))
	handle(c, mux, "merge", result(func(ctx context.Context, r mergeRequest) (*manager.Result, error) {
		return g.Merge(ctx, r.Spec)
	}))
	handle(c, mux, "add-pvs", result(func(ctx context.Context, r pathsRequest) (*manager.Result, error) {
		return g.AddPVs(ctx, r.Paths)
	}))
	handle(c, mux, "remove-pvs", result(func(ctx context.Context, r pathsRequest) (*manager.Result, error) {
		return g.RemovePVs(ctx, r.Paths)
	}))
	handle(c, mux, "resize-pv", result(func(ctx context.Context, r resizePVRequest) (*manager.Result, error) {
		return g.ResizePV(ctx, r.Path, r.Size)
	}))
	handleLast(c, mux, "remove-lvs", c.whenIdle, result(func(ctx context.Context, r namesRequest) (*manager.Result, error) {
		return g.RemoveLVs(ctx, r.Names)
	}))
	handleLast(c, mux, "deactivate", c.whenIdle, result(func(ctx context.Context, r namesRequest) (*manager.Result, error) {
		return g.Deactivate(ctx, r.Names...)
	}))
	handleLast(c, mux, "remove-group", whenDone, result(func(ctx context.Context, _ emptyRequest) (*manager.Result, error) {
		return g.RemoveGroup(ctx)
	}))
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelWarn),
		// A request ends with its client: whoever presses Ctrl-C cancels it.
		BaseContext: func(net.Listener) context.Context { return context.Background() },
	}
}

// result adapts a method of manager.Group.
func result[Req any](f func(context.Context, Req) (*manager.Result, error)) func(context.Context, Req) reply {
	return func(ctx context.Context, req Req) reply {
		res, err := f(ctx, req)
		return reply{Result: res, Error: encodeError(err)}
	}
}

// handle serves POST /name, which leaves the daemon running.
func handle[Req any](c *control, mux *http.ServeMux, name string, f func(context.Context, Req) reply) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		req, err := decodeRequest[Req](r)
		if err != nil {
			c.send(w, reply{Error: encodeError(err)})
			return
		}
		rep := c.shared(func() reply { return f(r.Context(), req) })
		if rep.Result != nil {
			c.changed()
		}
		c.send(w, rep)
	})
}

// handleBeside serves POST /name, which has to do with a request that runs. It
// does not wait at the gate, where a request that is to be alone may be waiting for
// that one.
func handleBeside[Req any](c *control, mux *http.ServeMux, name string, f func(context.Context, Req) error) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		req, err := decodeRequest[Req](r)
		if err == nil {
			err = f(r.Context(), req)
		}
		c.send(w, reply{Error: encodeError(err)})
	})
}

// handleLast serves POST /name, after which the daemon ends if last says so.
// Its answer comes when the group is closed, so that the client can open the
// group itself, or see that its PVs are free, as soon as it has the answer.
func handleLast[Req any](c *control, mux *http.ServeMux, name string,
	last func(reply) bool, f func(context.Context, Req) reply) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		req, err := decodeRequest[Req](r)
		if err != nil {
			c.send(w, reply{Error: encodeError(err)})
			return
		}
		rep, ended := c.patiently(r.Context(), func() (reply, bool) {
			rep := f(r.Context(), req)
			return rep, last(rep)
		})
		if ended {
			<-c.closed
			if rep.Error == nil {
				rep.Error = encodeError(c.closeErr)
			}
		} else {
			c.changed()
		}
		c.send(w, rep)
	})
}

func (c *control) shared(f func() reply) reply {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.stopping {
		return reply{Error: encodeError(c.errStopping())}
	}
	return f()
}

func (c *control) alone(f func() (rep reply, ends bool)) (reply, bool) {
	c.gate.Lock()
	defer c.gate.Unlock()
	if c.stopping {
		return reply{Error: encodeError(c.errStopping())}, false
	}
	rep, ends := f()
	if ends {
		c.endLocked()
	}
	return rep, ends
}

// What is in use is tried again for a moment, as LVM2 retries deactivation: the
// kernel tells of a file's last close, and a loop device of its detachment,
// some time after umount has returned.
const (
	busyRetries = 10
	busyPause   = 50 * time.Millisecond
)

// patiently is alone, again and again while something is in use. The result
// has the names of all that was done.
func (c *control) patiently(ctx context.Context, f func() (rep reply, ends bool)) (reply, bool) {
	var done []string
	for n := 0; ; n++ {
		rep, ends := c.alone(f)
		if rep.Result != nil {
			done = append(done, rep.Result.Names...)
			rep.Result.Names = done
		}
		if n == busyRetries || ends || rep.Error == nil || rep.Error.Kind != errs.Busy.String() {
			return rep, ends
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return rep, ends
		}
	}
}

// whenIdle ends the daemon when no volume is active any more, whatever the
// request itself came to.
func (c *control) whenIdle(reply) bool {
	st, err := c.group.Status(context.Background())
	if err != nil {
		c.log.Warn("status", "err", err)
		return false
	}
	return len(st.LVs) == 0
}

// whenDone ends the daemon when the request succeeded.
func whenDone(rep reply) bool { return rep.Error == nil }

func (c *control) status(ctx context.Context) reply {
	st, err := c.group.Status(ctx)
	if err != nil {
		return reply{Error: encodeError(err)}
	}
	for name, lv := range st.LVs {
		c.locate(name, &lv)
		st.LVs[name] = lv
	}
	return reply{Status: &statusReply{
		Metadata: string(vgtext.Encode(st.Group)),
		LVs:      st.LVs,
		PVs:      st.PVs,
		Owner:    c.pid,
	}}
}

// decodeRequest checks that the client is of this version and reads its
// request.
func decodeRequest[Req any](r *http.Request) (Req, error) {
	var req Req
	if got := r.Header.Get(protocolHeader); got != strconv.Itoa(protocol) {
		return req, errProtocol(fmt.Sprintf("this client speaks control protocol %q, the daemon %d", got, protocol))
	}
	return req, decodeStrict(r.Body, maxRequest, &req)
}

// errProtocol is what either side says to one of another version.
func errProtocol(text string) error {
	return errs.WithHint(errs.E(errs.Unsupported, "%s", text),
		"use the cowl that started the daemon, or end the daemon with SIGTERM and activate the group again")
}

func (c *control) send(w http.ResponseWriter, rep reply) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus(rep.Error))
	if err := json.NewEncoder(w).Encode(rep); err != nil {
		c.log.Debug("client went away", "err", err)
	}
}
