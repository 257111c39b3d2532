// Package backup holds the stories of backup and restore that need the whole
// program: processes that are killed, disks that are full, volumes that are
// mounted, and the demo. It has no code outside its tests.
package backup
