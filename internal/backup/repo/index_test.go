package repo

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/kopia/kopia/repo/object"
)

// slowIndex is what encoding/json makes of an index.
func slowIndex(text []byte) (entries []object.IndirectObjectEntry, err error) {
	var x struct {
		Stream  string                       `json:"stream"`
		Entries []object.IndirectObjectEntry `json:"entries"`
	}
	err = json.Unmarshal(text, &x)
	return x.Entries, err
}

// Indexes are parsed by hand as they are by encoding/json, or left to it.
func FuzzIndex(f *testing.F) {
	for _, text := range []string{
		indexHead + indexTail,
		indexHead + `{"l":65536,"o":"00112233445566778899aabbccddeeff"}` + indexTail,
		indexHead + `{"l":65536,"o":"x00112233445566778899aabbccddeeff"},{"s":65536,"l":1,"o":"Ix00112233445566778899aabbccddeeff"}` + indexTail,
		indexHead + `{"s":0,"l":1,"o":"IIx00112233445566778899aabbccddeeff"}` + indexTail,
		indexHead + `{"l":65536,"o":"00112233445566778899aabbccddeeff"},` + indexTail,
		indexHead + `{"l":999999999999999999,"o":"00112233445566778899aabbccddeeff"}{"l":1,"o":""}` + indexTail,
		`{"entries":[{"o":"00112233445566778899aabbccddeeff","l":3}]}`,
		`{"stream":"kopia:indirect","entries":null}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseIndex(text, 2)
		want, wantErr := slowIndex(text)
		if (err == nil) != (wantErr == nil) || err == nil && len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v instead of %v, %v", text, got, err, want, wantErr)
		}
	})
}

// What indexWriter writes must not need encoding/json.
func TestIndexIsParsedByHand(t *testing.T) {
	id, err := object.ParseID("x00112233445566778899aabbccddeeff")
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(indexHead + `{"l":65536,"o":"x00112233445566778899aabbccddeeff"},{"s":65536,"l":1,"o":"x00112233445566778899aabbccddeeff"}` + indexTail)
	allocs := testing.AllocsPerRun(100, func() {
		entries, err := parseIndex(text, 2)
		if err != nil || len(entries) != 2 || entries[1] != (object.IndirectObjectEntry{Start: 65536, Length: 1, Object: id}) {
			t.Fatal(entries, err)
		}
	})
	if allocs > 5 {
		t.Errorf("%.0f allocations for two entries", allocs)
	}
}
