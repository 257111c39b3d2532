// Package growth has fio write as fast as it can over volumes whose snapshots
// are too small for it.
package growth
