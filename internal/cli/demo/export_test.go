package demo

// WithPattern makes the story that is told where e2fsprogs are missing.
func (o Options) WithPattern() Options {
	o.fill = &pattern{}
	return o
}
