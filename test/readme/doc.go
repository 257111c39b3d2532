// Package readme runs the session that the README shows and compares what it
// prints with what the README says it prints.
package readme
