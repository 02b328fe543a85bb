"""python -m shards compose | convert | index | depth | merge | verify | show | export"""

if __name__ == "__main__":  # workers import this too, and need none of the commands: 0.1 s less for each
    from shards.commands import main

    main()
