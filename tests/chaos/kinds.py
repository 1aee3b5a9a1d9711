"""What is injected for each fault of the matrix, by its name in cases.py."""

import data_faults
import faults
import rejoining

KINDS = {
    "SIGKILL": faults.Kill,
    "exit": faults.Exit,
    "clean leave": faults.Leave,
    "SIGSTOP for ever": faults.Stop,
    "SIGSTOP 1 s": faults.StopShortly,
    "compute straggler": faults.Straggler,
    "rank 0 killed": faults.KillRank0,
    "two at once": faults.TwoAtOnce,
    "wrong numel": faults.WrongNumel,
    "wrong dtype": faults.WrongDtype,
    "wrong fingerprint": faults.WrongFingerprint,
    "garbage on the port": faults.Garbage,
    "store killed": faults.StoreKilled,
    "slow link": faults.SlowLink,
    "stalled link": faults.StalledLink,
    "one-way partition": faults.OneWay,
    "random packet drop": faults.RandomDrop,
    "link down and up": faults.LinkDownAndUp,
    "NaN": data_faults.NonFinite,
    "corrupted payload": data_faults.Damaged,
    "corrupted over TCP": data_faults.DamagedOverTcp,
    "corrupted for good": data_faults.DamagedForGood,
    "restart and rejoin": rejoining.RestartAndRejoin,
}
