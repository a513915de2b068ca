module edge

go 1.19

require lope v0.0.0

replace lope => ../../../plugin-api/go
