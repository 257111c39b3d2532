package daemon

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Whatever comes through the socket is an error or a request, and what is a
// request is still the same one when it is sent on.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"spec":{"Name":"x","Size":{"Bytes":4096},"PVs":[{"PV":"/p","Start":1,"End":2}],"Tags":["t"]}}`,
		`{"specs":[{"Origin":"a","Name":"s","ChunkSize":8}]}`, `{"spec":{"Name":"x","Size":{"Percent":7,"Of":"FREE"},"Relative":true}}`, `{"names":["a","b"]}`, `{"names":null}`, `{}`, `[`, `{"names":["\ud800"]}`,
		`{"name":"a","read_only":true}`, `{"snapshot":"s"}`, `{"paths":["/x"]} {}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip[createLVRequest](t, b)
		roundTrip[createSnapshotsRequest](t, b)
		roundTrip[extendLVRequest](t, b)
		roundTrip[namesRequest](t, b)
		roundTrip[pathsRequest](t, b)
		roundTrip[setReadOnlyRequest](t, b)
		roundTrip[changeTagsRequest](t, b)
		roundTrip[mergeRequest](t, b)
		roundTrip[writesRequest](t, b)
		roundTrip[changedRequest](t, b)
		roundTrip[reply](t, b)
	})
}

func roundTrip[T any](t *testing.T, b []byte) {
	t.Helper()
	var first, second T
	if decodeStrict(bytes.NewReader(b), maxRequest, &first) != nil {
		return
	}
	once, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := decodeStrict(bytes.NewReader(once), 2*maxRequest, &second); err != nil {
		t.Fatalf("%s: %v", once, err)
	}
	if twice, _ := json.Marshal(second); !bytes.Equal(once, twice) {
		t.Fatalf("%s becomes %s", once, twice)
	}
}
