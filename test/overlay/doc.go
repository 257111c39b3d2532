// Package overlay runs the cowl program's overlays for clients that are not
// ours, and kills it.
package overlay
