// Package guestagent asks the QEMU guest agent, which runs inside a virtual machine,
// to freeze the file systems there, and to let them go on: over the unix socket
// that the host has of the machine's serial port org.qemu.guest_agent.0. It knows
// these commands of the agent's protocol and no others.
//
// A guest that is frozen stays so until somebody thaws it, whatever becomes of this
// process.
package guestagent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"cowl/internal/errs"
)

// SyncTime is how long an agent has to answer at all before it is taken to be
// absent.
const SyncTime = 5 * time.Second

// maxReply is the longest reply that is read, in bytes. The agent's are short.
const maxReply = 1 << 20

// Agent is a connection to an agent. It is not for several goroutines at a time.
type Agent struct {
	path string
	conn net.Conn
	in   *bufio.Reader
}

// Dial connects to the agent behind a unix socket and makes sure that it answers.
// The error is of kind errs.NotFound if there is no socket, and errs.Busy if nobody
// answers. The caller closes the Agent.
func Dial(ctx context.Context, path string) (*Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, SyncTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		kind := errs.KindOf(err)
		switch {
		case errors.Is(err, syscall.EAGAIN): // its queue is full
			kind = errs.Busy
		case kind == errs.Other:
			kind = errs.NotFound
		}
		return nil, errs.WithHint(errs.E(kind, "guest agent %s: %w", path, err),
			"It is the socket of a -chardev socket,path=%s,server=on,wait=off of qemu's, of the virtserialport org.qemu.guest_agent.0.", path)
	}
	a := &Agent{path: path, conn: conn, in: bufio.NewReaderSize(conn, maxReply)}
	if err := a.sync(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return a, nil
}

// Close ends the connection. What is frozen stays so.
func (a *Agent) Close() error { return a.conn.Close() }

// sync gets rid of what an earlier client has left half said or unread: the agent
// forgets at a byte 0xFF what came before, and marks its reply with one.
func (a *Agent) sync(ctx context.Context) error {
	id := rand.Int64N(1 << 53) // which JSON's numbers keep exactly
	defer a.within(ctx)()
	if _, err := a.conn.Write([]byte{0xff}); err != nil {
		return a.failed(ctx, "guest-sync-delimited", err)
	}
	if err := a.send("guest-sync-delimited", map[string]any{"id": id}); err != nil {
		return a.failed(ctx, "guest-sync-delimited", err)
	}
	for {
		if err := a.skipTo(0xff); err != nil {
			return a.failed(ctx, "guest-sync-delimited", err)
		}
		var got int64
		if err := a.reply(&got); err == nil && got == id {
			return nil
		} else if err != nil && !errs.Is(err, errs.Corrupt) {
			return a.failed(ctx, "guest-sync-delimited", err)
		}
	}
}

func (a *Agent) skipTo(mark byte) error {
	for {
		b, err := a.in.ReadByte()
		if err != nil || b == mark {
			return err
		}
	}
}

// Freeze freezes all file systems of the guest that can be, and returns how many.
// It takes as long as the guest needs to write back what is dirty. After an error
// some may be frozen: Thaw them.
func (a *Agent) Freeze(ctx context.Context) (n int, err error) {
	return n, a.call(ctx, "guest-fsfreeze-freeze", &n)
}

// Thaw lets all file systems go on and returns how many were frozen: 0 if
// somebody else has done so before.
func (a *Agent) Thaw(ctx context.Context) (n int, err error) {
	return n, a.call(ctx, "guest-fsfreeze-thaw", &n)
}

// Frozen reports whether file systems of the guest are frozen.
func (a *Agent) Frozen(ctx context.Context) (bool, error) {
	var status string
	if err := a.call(ctx, "guest-fsfreeze-status", &status); err != nil {
		return false, err
	}
	switch status {
	case "frozen":
		return true, nil
	case "thawed":
		return false, nil
	}
	return false, errs.E(errs.Corrupt, "guest agent %s: guest-fsfreeze-status: %q is no status", a.path, status)
}

// call runs a command without arguments.
func (a *Agent) call(ctx context.Context, command string, out any) error {
	defer a.within(ctx)()
	err := a.send(command, nil)
	if err == nil {
		err = a.reply(out)
	}
	return a.failed(ctx, command, err)
}

// within makes reads and writes fail when the context ends, until the returned
// function is called.
func (a *Agent) within(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { a.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// failed says of an error what was asked of whom. nil stays nil.
func (a *Agent) failed(ctx context.Context, command string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errs.WithHint(errs.E(errs.Busy, "guest agent %s does not answer %s in time", a.path, command),
			"Does qemu-guest-agent run in the virtual machine? Is the socket libvirt's? Then its commands are virsh domfsfreeze and virsh domfsthaw.")
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF):
		err = errs.E(errs.Busy, "the connection was closed: another client may have it, or the machine has ended")
	}
	return fmt.Errorf("guest agent %s: %s: %w", a.path, command, err)
}

// send writes a request.
func (a *Agent) send(command string, arguments any) error {
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	_, err = a.conn.Write(append(text, '\n'))
	return err
}

// reply reads an answer: {"return": VALUE}, or {"error": {"class", "desc"}}.
func (a *Agent) reply(out any) error {
	line, err := a.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return errs.E(errs.Corrupt, "its answer is longer than %d bytes", maxReply)
	}
	if err != nil {
		return err
	}
	var r struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return errs.E(errs.Corrupt, "its answer is not JSON: %w", err)
	}
	if r.Error != nil {
		return errs.E(errs.Other, "%s", r.Error.Desc)
	}
	if err := json.Unmarshal(r.Return, out); err != nil {
		return errs.E(errs.Corrupt, "its answer is %.100q: %w", r.Return, err)
	}
	return nil
}
