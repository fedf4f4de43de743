# The jobs themselves are in ./run, which needs no make.
.PHONY: demo test lint bench
demo test lint bench:
	@./run $@
