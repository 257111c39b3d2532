module cowl

go 1.26
