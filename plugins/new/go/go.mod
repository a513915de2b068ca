module handler

go 1.19

require lope v0.0.0

replace lope => ./.lope/go
