//go:build !unix

package localstore

// syncDir has no equivalent here: names are as durable as the file system
// makes them.
func syncDir(string) error { return nil }
