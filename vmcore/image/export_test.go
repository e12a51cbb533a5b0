package image

// SetRatioAfter makes bombs go off early.
func (o *Options) SetRatioAfter(n int64) { o.ratioAfter = n }
