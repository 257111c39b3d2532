package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/filter/readonly"
	"cowl/internal/errs"
	"cowl/internal/export/nbd"
	"cowl/internal/forecast"
	"cowl/internal/format/vgtext"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// Client is a manager.Group that a daemon in another process runs.
type Client struct {
	paths Paths
	group string
	pid   int
	http  *http.Client
}

var _ manager.Group = (*Client)(nil)

// Connect reaches the daemon that serves the group from the run directory.
// Without one it fails with errs.NotFound; one of another version gives
// errs.Unsupported.
func Connect(ctx context.Context, runDir, group string) (*Client, error) {
	paths, err := PathsFor(runDir, group)
	if err != nil {
		return nil, err
	}
	c := &Client{paths: paths, group: group, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", paths.Control)
		},
	}}}
	h, err := c.hello(ctx)
	if err != nil {
		return nil, err
	}
	if h.Protocol != protocol {
		return nil, errProtocol(fmt.Sprintf("the daemon of volume group %s (pid %d) speaks control protocol %d, this cowl %d",
			group, h.PID, h.Protocol, protocol))
	}
	c.pid = h.PID
	return c, nil
}

func (c *Client) hello(ctx context.Context) (*hello, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cowl/hello", nil)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case isGone(err):
		return nil, errs.E(errs.NotFound, "no daemon serves volume group %s from %s", c.group, c.paths.Dir)
	case err != nil:
		return nil, c.unreachable(err)
	}
	defer res.Body.Close()
	var h hello // decoded leniently: later versions may say more
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, maxRequest)).Decode(&h); err != nil || h.Protocol == 0 {
		return nil, errs.E(errs.Corrupt, "%s does not answer as a cowl daemon does", c.paths.Control)
	}
	if h.Group != c.group {
		return nil, errs.E(errs.Conflict, "%s is the socket of volume group %q", c.paths.Control, h.Group)
	}
	return &h, nil
}

// isGone reports whether an error means that there is no daemon, or that it
// was just ending.
func isGone(err error) bool {
	for _, e := range []error{syscall.ENOENT, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// unreachable says what an error of the connection means, without net/http's
// words about URLs that nobody typed.
func (c *Client) unreachable(err error) error {
	if isGone(err) {
		// Not errs.NotFound: that would say that there is no such volume.
		return errs.WithHint(errs.E(errs.Other, "the daemon of volume group %s (pid %d) has ended", c.group, c.pid), "see %s", c.paths.Log)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return errs.E(errs.KindOf(err), "daemon of volume group %s at %s: %w", c.group, c.paths.Control, err)
}

// call sends one request and returns the reply; an error that the daemon
// reports is both in the reply and returned.
func (c *Client) call(ctx context.Context, method string, request any) (reply, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return reply{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cowl/"+method, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set(protocolHeader, strconv.Itoa(protocol))
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return reply{}, ctx.Err()
		}
		return reply{}, c.unreachable(err)
	}
	defer res.Body.Close()
	var rep reply
	if err := decodeStrict(res.Body, maxReply, &rep); err != nil {
		return reply{}, errs.E(errs.Other, "answer of the daemon of volume group %s to %s: %w", c.group, method, err)
	}
	return rep, rep.Error.decode()
}

// change sends a request that answers with a result. Where a change succeeded
// in part there are both a result and an error.
func (c *Client) change(ctx context.Context, method string, request any) (*manager.Result, error) {
	rep, err := c.call(ctx, method, request)
	return rep.Result, err
}

// PID returns the daemon's process id.
func (c *Client) PID() int { return c.pid }

// Status implements manager.Group.
func (c *Client) Status(ctx context.Context) (*manager.Status, error) {
	rep, err := c.call(ctx, "status", emptyRequest{})
	if err != nil {
		return nil, err
	}
	if rep.Status == nil {
		return nil, errs.E(errs.Corrupt, "the daemon of volume group %s sent no status", c.group)
	}
	group, err := vgtext.Decode([]byte(rep.Status.Metadata))
	if err != nil {
		return nil, fmt.Errorf("metadata from the daemon of volume group %s: %w", c.group, err)
	}
	lvs := rep.Status.LVs
	if lvs == nil {
		lvs = map[string]manager.LVStatus{}
	}
	return &manager.Status{Group: group, LVs: lvs, PVs: rep.Status.PVs, Owner: rep.Status.Owner}, nil
}

// CreateLV implements manager.Group.
func (c *Client) CreateLV(ctx context.Context, spec volume.LVSpec) (*manager.Result, error) {
	var err error
	if spec.PVs, err = absoluteRanges(spec.PVs); err != nil {
		return nil, err
	}
	return c.change(ctx, "create-lv", createLVRequest{spec})
}

// CreateSnapshots implements manager.Group.
func (c *Client) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*manager.Result, error) {
	specs, err := absoluteSpecs(specs)
	if err != nil {
		return nil, err
	}
	return c.change(ctx, "create-snapshots", createSnapshotsRequest{Specs: specs})
}

// CreateSnapshotsWhile implements manager.Group.
func (c *Client) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*manager.Result, error) {
	specs, err := absoluteSpecs(specs)
	if err != nil {
		return nil, err
	}
	hold := holdRequest{ID: rand.Text(), Limit: limit}
	// What is done meanwhile ends when the daemon has given up.
	inside, end := context.WithCancelCause(ctx)
	defer end(nil)
	type answer struct {
		result *manager.Result
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		r, err := c.change(ctx, "create-snapshots", createSnapshotsRequest{Specs: specs, Hold: &hold})
		end(err)
		answered <- answer{r, err}
	}()
	var failed error // what went wrong inside, for which the daemon is not to blame
	if _, err := c.call(inside, "wait-held", holdRequest{ID: hold.ID}); err == nil {
		if err = held(inside); inside.Err() == nil || ctx.Err() != nil {
			failed = err
		}
		// Not to be interrupted: writers wait for it.
		_, _ = c.call(context.WithoutCancel(ctx), "let-go", holdRequest{ID: hold.ID, Failed: err != nil})
	}
	a := <-answered
	return a.result, cmp.Or(failed, a.err)
}

func absoluteSpecs(specs []volume.SnapshotSpec) ([]volume.SnapshotSpec, error) {
	specs = append([]volume.SnapshotSpec(nil), specs...)
	for i := range specs {
		var err error
		if specs[i].PVs, err = absoluteRanges(specs[i].PVs); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// RemoveLVs implements manager.Group.
func (c *Client) RemoveLVs(ctx context.Context, names []string) (*manager.Result, error) {
	return c.change(ctx, "remove-lvs", namesRequest{names})
}

// ExtendLV implements manager.Group.
func (c *Client) ExtendLV(ctx context.Context, spec volume.ExtendSpec) (*manager.Result, error) {
	var err error
	if spec.PVs, err = absoluteRanges(spec.PVs); err != nil {
		return nil, err
	}
	return c.change(ctx, "extend-lv", extendLVRequest{spec})
}

// SetReadOnly implements manager.Group.
func (c *Client) SetReadOnly(ctx context.Context, name string, readOnly bool) (*manager.Result, error) {
	return c.change(ctx, "set-read-only", setReadOnlyRequest{name, readOnly})
}

// ChangeTags implements manager.Group.
func (c *Client) ChangeTags(ctx context.Context, name string, add, remove []string) (*manager.Result, error) {
	return c.change(ctx, "change-tags", changeTagsRequest{name, add, remove})
}

// Activate implements manager.Group.
func (c *Client) Activate(ctx context.Context, names ...string) (*manager.Result, error) {
	return c.change(ctx, "activate", namesRequest{names})
}

// Deactivate implements manager.Group. When it takes the last active volume
// away, the daemon ends, and has let go of the PVs when Deactivate returns.
func (c *Client) Deactivate(ctx context.Context, names ...string) (*manager.Result, error) {
	return c.change(ctx, "deactivate", namesRequest{names})
}

// Merge implements manager.Group.
func (c *Client) Merge(ctx context.Context, spec volume.MergeSpec) (*manager.Result, error) {
	return c.change(ctx, "merge", mergeRequest{spec})
}

// Writes implements manager.Group.
func (c *Client) Writes(ctx context.Context, name string) (*forecast.Pattern, error) {
	rep, err := c.call(ctx, "writes", writesRequest{name})
	if err != nil {
		return nil, err
	}
	if rep.Writes == nil {
		return nil, errs.E(errs.Corrupt, "the daemon of volume group %s sent no pattern", c.group)
	}
	return rep.Writes, rep.Writes.Validate()
}

// Changed implements manager.Group.
func (c *Client) Changed(ctx context.Context, snapshot string) (*manager.Changes, error) {
	rep, err := c.call(ctx, "changed", changedRequest{snapshot})
	if err != nil {
		return nil, err
	}
	if rep.Changes == nil {
		return nil, errs.E(errs.Corrupt, "the daemon of volume group %s sent no changes", c.group)
	}
	if err := rep.Changes.Validate(); err != nil {
		return nil, fmt.Errorf("changes from the daemon of volume group %s: %w", c.group, err)
	}
	return rep.Changes, nil
}

// AddPVs implements manager.Group. Relative paths are this process's.
func (c *Client) AddPVs(ctx context.Context, paths []string) (*manager.Result, error) {
	return c.changePVs(ctx, "add-pvs", paths)
}

// RemovePVs implements manager.Group. Relative paths are this process's.
func (c *Client) RemovePVs(ctx context.Context, paths []string) (*manager.Result, error) {
	return c.changePVs(ctx, "remove-pvs", paths)
}

// ResizePV implements manager.Group. A relative path is this process's; messages
// name the PV as it was given.
func (c *Client) ResizePV(ctx context.Context, path string, size int64) (*manager.Result, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return c.change(ctx, "resize-pv", resizePVRequest{abs, size})
}

func (c *Client) changePVs(ctx context.Context, method string, paths []string) (*manager.Result, error) {
	abs := make([]string, len(paths))
	for i, p := range paths {
		var err error
		if abs[i], err = filepath.Abs(p); err != nil {
			return nil, err
		}
	}
	return c.change(ctx, method, pathsRequest{abs})
}

// RemoveGroup implements manager.Group. The daemon has ended when it returns.
func (c *Client) RemoveGroup(ctx context.Context) (*manager.Result, error) {
	return c.change(ctx, "remove-group", emptyRequest{})
}

// Open implements manager.Group: the device reads and writes through the
// daemon's NBD socket, and counts as an opener until it is closed.
func (c *Client) Open(ctx context.Context, name string, readOnly bool) (block.Device, error) {
	dev, err := nbd.Dial(ctx, "unix", c.paths.NBD, name)
	switch {
	case err != nil && isGone(err):
		return nil, c.unreachable(err)
	case err != nil:
		return nil, err
	}
	if readOnly {
		return readonly.New(dev), nil
	}
	return dev, nil
}

// Close implements manager.Group. The daemon goes on; devices from Open are
// closed on their own.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// absoluteRanges makes the PV paths of an allocation absolute: the daemon's
// working directory is not the client's.
func absoluteRanges(ranges []volume.PVRange) ([]volume.PVRange, error) {
	if ranges == nil {
		return nil, nil
	}
	out := append([]volume.PVRange(nil), ranges...)
	for i := range out {
		if strings.HasPrefix(out[i].PV, "@") {
			continue // a tag, which names the same PVs everywhere
		}
		abs, err := filepath.Abs(out[i].PV)
		if err != nil {
			return nil, err
		}
		out[i].PV = abs
	}
	return out, nil
}
