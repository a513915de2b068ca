module lope

go 1.19
