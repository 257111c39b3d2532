//go:build !unix

package repo

// alive cannot tell here, and says the careful thing.
func alive(int) bool { return true }
