//go:build !linux

package main

// warm does nothing: only Linux has the page cache that it is about.
func (b *bench) warm() error { return nil }
