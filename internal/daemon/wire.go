package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// protocol is the version of everything in this file but hello. A daemon
// answers only clients of its own version: both come from one binary, and the
// exception, a daemon that outlived an upgrade, is told about by name.
const protocol = 1

// protocolHeader carries the client's protocol in every request.
const protocolHeader = "Cowl-Control"

// Bounds on what crosses the control socket, in bytes. A status carries a
// group's metadata, which LVM2 allows to grow to half a metadata area; changes
// carry 2 to 4 bytes for each of up to some ten million ranges.
const (
	maxRequest = 1 << 20
	maxReply   = 64 << 20
)

// hello is the answer to GET /hello, the one exchange that every version
// understands. Fields may be added, never changed.
type hello struct {
	Protocol int    `json:"protocol"`
	PID      int    `json:"pid"`
	Group    string `json:"group"`
}

// The requests, one a method of manager.Group. Methods that take the same
// share a type.
type (
	emptyRequest    struct{}
	createLVRequest struct {
		Spec volume.LVSpec `json:"spec"`
	}
	createSnapshotsRequest struct {
		Specs []volume.SnapshotSpec `json:"specs"`
		// Hold, if there is one, has the origins held until the client says so.
		Hold *holdRequest `json:"hold,omitempty"`
	}
	// holdRequest names a hold: the client's request create-snapshots waits with
	// its origins held, at most for Limit. Another, wait-held, is answered when
	// that is so, and a third, let-go, ends it, with Failed if there are to be no
	// snapshots.
	holdRequest struct {
		ID     string        `json:"id"`
		Limit  time.Duration `json:"limit_ns,omitempty"`
		Failed bool          `json:"failed,omitempty"`
	}
	extendLVRequest struct {
		Spec volume.ExtendSpec `json:"spec"`
	}
	namesRequest struct {
		Names []string `json:"names"`
	}
	pathsRequest struct {
		Paths []string `json:"paths"`
	}
	resizePVRequest struct {
		Path string `json:"path"`
		Size int64  `json:"size,omitempty"`
	}
	setReadOnlyRequest struct {
		Name     string `json:"name"`
		ReadOnly bool   `json:"read_only"`
	}
	changeTagsRequest struct {
		Name   string   `json:"name"`
		Add    []string `json:"add"`
		Remove []string `json:"remove"`
	}
	writesRequest struct {
		Name string `json:"name"`
	}
	mergeRequest struct {
		Spec volume.MergeSpec `json:"spec"`
	}
	changedRequest struct {
		Snapshot string `json:"snapshot"`
	}
)

// reply answers every request but hello. A change that succeeded in part has
// both a result and an error.
type reply struct {
	Result  *manager.Result   `json:"result,omitempty"`
	Status  *statusReply      `json:"status,omitempty"`
	Writes  *forecast.Pattern `json:"writes,omitempty"`
	Changes *manager.Changes  `json:"changes,omitempty"`
	Error   *wireError        `json:"error,omitempty"`
}

// statusReply is manager.Status with the metadata in LVM2's own text, so that
// the socket needs no second encoding of the model.
type statusReply struct {
	Metadata string                      `json:"metadata"`
	LVs      map[string]manager.LVStatus `json:"lvs"`
	PVs      []manager.PVStatus          `json:"pvs"`
	Owner    int                         `json:"owner"`
}

// wireError is an error with what package errs knows of it.
type wireError struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	return &wireError{Kind: errs.KindOf(err).String(), Text: err.Error(), Hint: errs.HintOf(err)}
}

func (e *wireError) decode() error {
	if e == nil {
		return nil
	}
	err := errs.E(errs.ParseKind(e.Kind), "%s", e.Text)
	if e.Hint != "" {
		err = errs.WithHint(err, "%s", e.Hint)
	}
	return err
}

// httpStatus is for people with curl; cowl's client goes by the body.
func httpStatus(e *wireError) int {
	if e == nil {
		return http.StatusOK
	}
	switch errs.ParseKind(e.Kind) {
	case errs.Usage:
		return http.StatusBadRequest
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Denied:
		return http.StatusForbidden
	case errs.Exists, errs.Busy, errs.Conflict:
		return http.StatusConflict
	case errs.NoSpace:
		return http.StatusInsufficientStorage
	case errs.Unsupported:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// decodeStrict reads exactly one JSON value of at most max bytes with no
// field that v lacks.
func decodeStrict(r io.Reader, max int64, v any) error {
	limited := &io.LimitedReader{R: r, N: max + 1}
	d := json.NewDecoder(limited)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		// Anything but the end after the value is a second one, or noise.
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	if limited.N <= 0 {
		return errs.E(errs.Usage, "message is larger than %d bytes", max)
	}
	if err != nil {
		return errs.E(errs.Usage, "malformed message: %w", err)
	}
	return nil
}
