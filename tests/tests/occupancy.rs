//! How full ciphertexts are on large maps: the layouts that the search chooses, beside the fullest ones that there are.
//!
//! Maps of 112 and 160 have layouts that fill more than nine slots of ten, but their offsets do not wrap around: they take several
//! times the diagonals and the predicted time of those with rows and channels at powers of two, which fill three quarters.
//!
//! `cargo test --release -p peregrine-tests --test occupancy -- --nocapture` prints the table.
#![allow(clippy::print_stdout)]

use peregrine_ir::fhe::FheOp;
use peregrine_ir::layout::Layout;
use peregrine_ir::tensor::{Conv, Stage, TensorGraph, TensorOp, TensorTables, TensorTy, infer};
use peregrine_ir::{ConstPool, ConstTensor, Origin, OutputPort, ValueId};
use peregrine_passes::fhe::assign::LayoutSearch;
use peregrine_passes::fhe::cost::Machine;
use peregrine_passes::fhe::layouts::{Grid, spreads};
use peregrine_passes::fhe::pack::pack;
use peregrine_passes::pipeline::Products;

/// Of a ring of 2^16.
const SLOTS: u32 = 1 << 15;

/// A convolution and the square that follows it.
#[derive(Clone, Copy)]
struct Layer {
    channels: usize,
    kernel: usize,
    stride: u32,
    groups: usize,
}

const fn conv(channels: usize, kernel: usize, stride: u32) -> Layer {
    Layer { channels, kernel, stride, groups: 1 }
}

const fn depthwise(channels: usize, stride: u32) -> Layer {
    Layer { channels, kernel: 3, stride, groups: channels }
}

/// A stack of layers on an image of three channels.
struct Stack {
    name: &'static str,
    side: usize,
    layers: &'static [Layer],
    /// The maps that are looked at.
    maps: usize,
    /// Least share of the slots that those of the chosen layouts fill.
    chosen: f64,
}

const STACKS: [Stack; 4] = [
    Stack {
        name: "ResNet stem",
        side: 224,
        layers: &[conv(64, 7, 2), conv(64, 3, 2)],
        maps: 112,
        chosen: 0.76,
    },
    Stack {
        name: "MobileNet stem",
        side: 224,
        layers: &[conv(32, 3, 2), depthwise(32, 1), conv(16, 1, 1), conv(64, 1, 1), depthwise(64, 2)],
        maps: 112,
        chosen: 0.76,
    },
    Stack {
        name: "YOLO stem",
        side: 640,
        layers: &[conv(16, 6, 2), conv(32, 3, 2), conv(16, 1, 1), conv(16, 3, 1), conv(64, 3, 2)],
        maps: 160,
        chosen: 0.78,
    },
    Stack {
        name: "full resolution",
        side: 512,
        layers: &[conv(8, 3, 1), conv(8, 3, 1), conv(16, 3, 2)],
        maps: 512,
        chosen: 0.9,
    },
];

fn build(stack: &Stack) -> TensorGraph {
    let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Polynomial };
    let mut graph = TensorGraph::new(stack.name, tables);
    let ty = TensorTy::map(3, stack.side, stack.side);
    let mut value = graph.add(TensorOp::Input { name: "x".into() }, [], ty, Origin::new("x"));
    for (index, layer) in stack.layers.iter().enumerate() {
        let read = graph.nodes[value].ty.shape[1] / layer.groups;
        let shape = [layer.channels, read, layer.kernel, layer.kernel];
        let weights = vec![0.01; shape.iter().product()];
        let weights = graph.tables.consts.push(ConstTensor::f32(shape, weights));
        let pad = ((layer.kernel - 1) / 2) as u32;
        let operation = TensorOp::Conv(Conv {
            weights,
            bias: None,
            stride: [layer.stride; 2],
            pads: [pad; 4],
            dilation: [1, 1],
            groups: layer.groups as u32,
        });
        let convolved = add(&mut graph, operation, value, &format!("conv{index}"));
        let coefficients = graph.tables.consts.push(ConstTensor::f64([1, 3], [0.0, 0.5, 0.2]));
        value = add(&mut graph, TensorOp::Poly { coefficients }, convolved, &format!("square{index}"));
    }
    graph.outputs.push(OutputPort { name: "y".into(), value });
    graph
}

fn add(graph: &mut TensorGraph, op: TensorOp, arg: ValueId, name: &str) -> ValueId {
    let ty = infer(&op, &[&graph.nodes[arg].ty], &graph.tables.consts).expect("the layer has a type");
    graph.add(op, [arg], ty, Origin::new(name))
}

/// Share of the slots of several layouts that hold elements.
fn share<'a>(layouts: impl Iterator<Item = &'a Layout>) -> f64 {
    let (mut elements, mut slots) = (0.0, 0.0);
    for layout in layouts {
        elements += layout.shape.len() as f64;
        slots += f64::from(layout.period.get()) * f64::from(layout.ciphertexts);
    }
    elements / slots
}

#[test]
fn large_maps_can_fill_nine_slots_of_ten_and_are_laid_out_for_speed() {
    for stack in STACKS {
        let graph = build(&stack);
        let ranges: Vec<Vec<f64>> = graph.nodes.values().map(|n| vec![1.0; n.ty.shape[1]]).collect();
        let search = LayoutSearch::Search(Machine::default(), Products::Deep);
        let packed = pack(&graph, &ranges, SLOTS, &search).expect("the stack packs");
        let layouts = &packed.graph.tables.layouts;
        let large = |layout: &&Layout| layout.shape.h as usize == stack.maps;
        let values = packed.graph.nodes.values().filter(|node| !matches!(node.op, FheOp::Poly(_)));
        let chosen = share(values.map(|node| &layouts[node.ty.layout]).filter(large));

        let spreads = spreads(&graph).expect("maps");
        let grid = Grid::new(&spreads, SLOTS);
        let of_maps: Vec<_> = spreads.iter().filter(|s| s.shape.h as usize == stack.maps).collect();
        let filled = |family| {
            let layouts: Vec<Layout> =
                of_maps.iter().map(|&&spread| grid.layout(spread, family).expect("a layout")).collect();
            (share(layouts.iter()), family.to_string())
        };
        let (fullest, family) =
            grid.families().into_iter().map(filled).max_by(|a, b| a.0.total_cmp(&b.0)).expect("a family");
        let report = &packed.layouts;
        let predicted = report.uniform_seconds.iter().find(|(name, _)| *name == family);
        let predicted = predicted.map_or_else(|| "?".to_owned(), |(_, seconds)| format!("{seconds:.2} s"));
        println!(
            "{} {}x{}: chosen {:.1} % full ({:.2} s predicted, {}), fullest {:.1} % ({family}, {predicted} predicted)",
            stack.name,
            stack.maps,
            stack.maps,
            100.0 * chosen,
            report.seconds,
            report.families.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" and "),
            100.0 * fullest,
        );
        assert!(fullest >= 0.9, "{}: no family fills more than {fullest}", stack.name);
        assert!(chosen >= stack.chosen, "{}: the chosen layouts fill {chosen}", stack.name);
        for (name, seconds) in &report.uniform_seconds {
            assert!(report.seconds <= seconds * (1.0 + 1e-9), "{}: {name} takes {seconds} s", stack.name);
        }
    }
}
